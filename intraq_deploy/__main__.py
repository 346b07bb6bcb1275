"""The command line as a module: `python -m intraq_deploy`, which torchrun starts too."""

from intraq_deploy.cli.entry import main

main()
