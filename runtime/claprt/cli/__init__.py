"""The command line: `claprt build | info | classify | embed | doctor`."""
