"""The control API below `/atmo/v1/`: what the commands of this machine ask of its running node."""
