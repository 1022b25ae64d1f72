"""A child process: `python -m edgearte.convert.quantize F16.gguf OUT.gguf TYPE` through llama.cpp's own quantizer."""

from __future__ import annotations

import sys


def main(source: str, out: str, type: str) -> int:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{type.upper()}")
    params.nthread = 0
    llama_cpp.llama_backend_init()
    return int(llama_cpp.llama_model_quantize(source.encode(), out.encode(), params))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
