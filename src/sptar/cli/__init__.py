"""The command line: parse, load the config, call a step, print. Heavy imports happen inside."""
