"""claprt_export: a CLAP checkpoint becomes a bundle. The only package of the project that imports torch."""
