"""The agent made ready to run: as code objects for a sandbox of this machine, as a folder for pods.

bundle         its modules, compiled, for a sandbox's interpreter
image          a folder with an interpreter of its own, for an agent's image; ``elf`` reads its libraries' names
first_stage    the program that a pod's container starts before that interpreter
"""
