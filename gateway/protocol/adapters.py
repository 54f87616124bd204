"""The bodies of `POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, which are vLLM's."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool

from formgate.gateway.protocol.fields import RequestBody
from formgate.gateway.protocol.limits import MAX_MODEL_CHARS

MAX_PATH_CHARS = 4096

AdapterName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_CHARS)]


class LoadAdapterRequest(RequestBody):
    lora_name: AdapterName
    lora_path: Annotated[str, Field(min_length=1, max_length=MAX_PATH_CHARS)]
    base_model_name: AdapterName | None = None
    load_inplace: StrictBool = False  # the name may be in use: its requests keep the old weights


class UnloadAdapterRequest(RequestBody):
    lora_name: AdapterName
