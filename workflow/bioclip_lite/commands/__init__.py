"""What ``python -m bioclip_lite <command>`` does about what has been made, one module per command."""
