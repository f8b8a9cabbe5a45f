"""What PtychoPINN wrote and expects: its model files, settings, data and workflow.

Written from the published contracts; nothing of what such a file holds is executed.
"""
