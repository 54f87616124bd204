"""The adapters of a server at run time: loaded and unloaded by clients, or, from the folder of
adapters, when they are first asked for.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from formgate.gateway.answers.caller import current_caller
from formgate.gateway.errors import ApiError, bad_request, model_not_found
from formgate.gateway.processes.adapter_desk import AdapterDesk
from formgate.gateway.protocol.adapters import LoadAdapterRequest, UnloadAdapterRequest
from formgate.gateway.served_models import ServedModels, wrong_adapter_name
from formgate.gateway.server_config import ServerConfig

CONFIG_FILE = "adapter_config.json"
_NO_NAMES = frozenset({"", ".", ".."})  # parts of a path; an absolute one begins with an empty part


class AdapterAccess:
    def __init__(self, config: ServerConfig, models: ServedModels, desk: AdapterDesk) -> None:
        self._models = models
        self._desk = desk
        self._folder = config.lora_dir
        self._may_change = config.allow_runtime_lora
        self._loading: dict[str, asyncio.Task[str | None]] = {}

    async def choose(self, name: str | None) -> None:
        """Resolve a request's `model` and note it for the request's caller. Raises ApiError 404 if
        nothing has the name, and 400 if its adapter cannot be loaded.
        """
        caller = current_caller()
        caller.model = await self.resolve(name)
        caller.adapter = caller.model if self._models.is_adapter(caller.model) else None

    async def resolve(self, name: str | None) -> str:
        """The served name for a request's `model`; see `choose`."""
        if name and self._folder is not None and not self._models.knows(name):
            await self._load_from_folder(name, self._folder)
        return self._models.resolve(name)

    async def load(self, body: LoadAdapterRequest) -> None:
        """Raises ApiError: 403 if clients may load none, 400 for a wrong name or folder."""
        self._ensure_allowed()
        name = body.lora_name
        if (reason := wrong_adapter_name(name)) is not None:
            raise bad_request(f"{reason}.", "lora_name")
        if name in self._models.names:
            raise bad_request(f"`{name}` is the model's own name.", "lora_name")
        if self._models.is_adapter(name) and not body.load_inplace:
            raise bad_request(
                f"The adapter `{name}` is loaded already; `load_inplace` loads it again.",
                "lora_name",
            )
        path = await asyncio.to_thread(self._allowed_path, body.lora_path)
        error = await self._desk.load(
            name, str(path), base_model_name=body.base_model_name, replace=body.load_inplace
        )
        if error is not None:
            raise bad_request(error.replace(str(path), body.lora_path), "lora_path")

    async def unload(self, body: UnloadAdapterRequest) -> None:
        """Raises ApiError: 403 if clients may unload none, 404 for an unknown name."""
        self._ensure_allowed()
        error = await self._desk.unload(body.lora_name)
        if error is not None:
            raise ApiError(404, error, "lora_name", "model_not_found")

    def _ensure_allowed(self) -> None:
        if not self._may_change:
            raise ApiError(
                403,
                "This server loads no adapters at run time (--allow-runtime-lora).",
                None,
                "runtime_lora_disabled",
            )

    def _allowed_path(self, given: str) -> Path:
        """Symbolic links are followed before the path is judged."""
        try:
            if self._folder is None:
                return Path(given).resolve()
            root = self._folder.resolve()
            path = (root / given).resolve()
        except (OSError, ValueError, RuntimeError):
            raise bad_request("The path cannot be followed.", "lora_path") from None
        if not path.is_relative_to(root):
            raise bad_request("The path lies outside --lora-dir.", "lora_path")
        return path

    async def _load_from_folder(self, name: str, root: Path) -> None:
        """Load `root/name` if it is an adapter. Requests that arrive meanwhile wait for it too."""
        path = await asyncio.to_thread(adapter_in, root, name)
        if path is None:
            raise model_not_found(name)
        # Another request may have come first while the path was looked up.
        loading = self._loading.get(name)
        if loading is None and not self._models.is_adapter(name):
            loading = asyncio.create_task(self._desk.load(name, str(path)))
            self._loading[name] = loading
            loading.add_done_callback(lambda _: self._loading.pop(name, None))
        error = None if loading is None else await asyncio.shield(loading)
        # Another HTTP process may have loaded it first.
        if error is not None and not self._models.is_adapter(name):
            raise bad_request(error.replace(str(path), name), "model")  # no paths of the server


def adapter_in(root: Path, name: str) -> Path | None:
    """The folder `name` of `root` if it holds an adapter; None also if it lies outside `root`.

    Of the many ways to write a path, only the plain one is a name: each name that a client finds
    is an entry of its own, which stays.
    """
    if wrong_adapter_name(name) is not None or _NO_NAMES & {*name.split("/")}:
        return None
    try:
        root = root.resolve()
        path = (root / name).resolve()
        inside = path.is_relative_to(root) and path != root
        return path if inside and (path / CONFIG_FILE).is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None
