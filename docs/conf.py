"""Sphinx configuration."""

import importlib.metadata

project = 'ptychopinn-plugin'
author = 'the ptychopinn-plugin developers'
copyright = '2026, the ptychopinn-plugin developers'
release = importlib.metadata.version('ptychopinn-plugin')
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.mathjax']
myst_enable_extensions = ['dollarmath', 'amsmath', 'deflist']
myst_heading_anchors = 3
autodoc_typehints = 'none'
autodoc_mock_imports = ['tensorflow', 'torch']
exclude_patterns = ['_build', 'upstream']
html_theme = 'furo'
html_title = 'ptychopinn-plugin'
