"""Files: written in one go, and read with care where strangers may have written them."""
