"""What a GGUF file says of itself: the keys of its specification that hubs and runtimes show, and where the weights come from.

`python -m edgearte.convert.describe REQUEST.json` writes them, in a child process like all that handles whole model files.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from edgearte import __version__
from edgearte.convert.card import hub_licence
from edgearte.lm.weights import HUB_ID, PACKAGE

Description = Mapping[str, str | int | list[str]]


def description(name: str, base: str, licence: str, **origin: str) -> dict[str, str | int | list[str]]:
    """The keys for a model called `name` that was made from `base` (a hub id, or how else it is called); `origin` is kept as
    `edgearte.*`. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md names the others."""
    plain = base.removeprefix(PACKAGE).removesuffix(".gguf")
    organization, _, model = base.rpartition("/") if re.fullmatch(HUB_ID, base) else ("", "", plain)
    found: dict[str, str | int | list[str]] = {
        "general.name": name,
        "general.basename": model,
        "general.quantized_by": "edgearte",
        "general.tags": ["edgearte", "text-generation"],
        "general.base_model.count": 1,
        "general.base_model.0.name": model,
        "edgearte.version": __version__,
    }
    if organization:
        found |= {"general.base_model.0.organization": organization, "general.base_model.0.repo_url": f"https://huggingface.co/{base}"}
    identifier, named = hub_licence(licence)
    stated = {"general.license": identifier, "general.license.name": named, **{f"edgearte.{key}": text for key, text in origin.items()}}
    return found | {key: text for key, text in stated.items() if text}


def main(request: str) -> None:
    """Copy the file `source` to `out` with the keys of `description` in place of its own of these names; in parts of so many bytes of
    tensors as `split` says, if it does, behind one of metadata alone."""
    import gguf
    from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

    asked = json.loads(Path(request).read_text("utf-8"))
    reader = gguf.GGUFReader(asked["source"], "r")
    field = reader.get_field(gguf.Keys.General.ARCHITECTURE)
    arch, most = field.contents() if field else "", asked.get("split", 0)
    writer = gguf.GGUFWriter(asked["out"], arch=arch, endianess=reader.endianess, split_max_size=most, small_first_shard=most > 0)
    kinds = {str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT32}
    new = {
        key: MetadataDetails(gguf.GGUFValueType.ARRAY, value, sub_type=gguf.GGUFValueType.STRING) if isinstance(value, list)
        else MetadataDetails(kinds[type(value)], value)
        for key, value in asked["description"].items()
    }  # fmt: skip
    copy_with_new_metadata(reader, writer, new, [])


if __name__ == "__main__":
    main(*sys.argv[1:])
