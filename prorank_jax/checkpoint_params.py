"""The parameters of a run's checkpoint, without the optimizer's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from prorank_jax.checkpoint_reading import (
    DamagedCheckpointError,
    compare_digests,
    read_items,
    refusing_damage,
)
from prorank_jax.models.config import ModelConfig
from prorank_jax.models.lora import add_product_in_place, combine, merge_factors, split_factors
from prorank_jax.models.transformer import Transformer, abstract_params
from prorank_jax.models.weights import default_sharding
from prorank_jax.run_folder import CHECKPOINTS_FOLDER
from prorank_jax.run_names import check_step
from prorank_jax.saved_state import STATE_ITEM, are_apart, check_frozen, is_of_frozen, read_frozen
from prorank_jax.stage_options import LoraOptions
from prorank_jax.state_digest import state_digests
from prorank_jax.storage_faults import within_reach
from prorank_jax.types import Params


def restore_params(
    output_dir: Path,
    config: ModelConfig,
    lora: LoraOptions,
    shardings: Any = None,
    step: int | None = None,
) -> Params:
    """The parameters of a checkpoint of a run, low-rank factors merged in, and nothing else.

    Args:
        output_dir: of the run.
        config: its architecture.
        lora: of the run.
        shardings: a sharding for each parameter, nested like the parameters; None: the first device.
        step: of the checkpoint; None: the newest one.

    Raises:
        ValueError: no complete checkpoint, or a damaged one.
        OSError: this machine cannot read it at present.
    """
    factors, rest = split_factors(nn.unbox(abstract_params(Transformer(config, lora=lora))))
    everywhere = jax.tree.map(lambda _: default_sharding(), rest) if shardings is None else shardings
    placed = jax.tree.map(_abstract, rest, everywhere)
    if not lora.rank:
        return _restore_state(output_dir, {"params": placed}, step)["params"]
    one = jax.tree.leaves(everywhere)[0]
    whole = NamedSharding(one.mesh, PartitionSpec()) if isinstance(one, NamedSharding) else one
    small = jax.tree.map(lambda leaf: _abstract(leaf, whole), factors)
    state = _restore_state(output_dir, {"params": small, "frozen": placed}, step)
    return merge_factors(combine(state["frozen"], state["params"]), lora.scale, add_product_in_place)


def _abstract(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _restore_state(output_dir: Path, item: dict[str, Any], named: int | None) -> dict[str, Any]:
    """Some parts of the state of the checkpoint of this step, or of the newest one."""
    folder = epath.Path((output_dir / CHECKPOINTS_FOLDER).absolute())
    with ocp.CheckpointManager(folder) as manager:
        step = manager.latest_step() if named is None else named
        if step is None:
            raise ValueError(f"{output_dir}: holds no complete checkpoint; let the run train on")
        check_step(str(output_dir), step, manager.all_steps())
        try:
            return _read_state(folder, step, item)
        except DamagedCheckpointError as error:
            if is_of_frozen(folder, error):
                raise
            raise DamagedCheckpointError(
                f"{error}; take its folder away to use the step before it, or name another one as RUN@STEP"
            ) from error


def _read_state(folder: epath.Path, step: int, item: dict[str, Any]) -> dict[str, Any]:
    with refusing_damage(folder / str(step)), within_reach(folder):
        apart = are_apart(folder, item.get("frozen", {}), [step])
    changing = {name: tree for name, tree in item.items() if not (apart and name == "frozen")}
    how = ocp.args.PyTreeRestore(
        item=changing,
        restore_args=ocp.checkpoint_utils.construct_restore_args(changing),
        partial_restore=True,
    )
    wanted = ocp.args.Composite(**{STATE_ITEM: how}, digests=ocp.args.JsonRestore())
    restored = read_items(folder / str(step), wanted)
    state: dict[str, Any] = restored[STATE_ITEM]
    compare_digests(folder / str(step), state_digests(state), restored["digests"])
    if apart:
        state["frozen"] = read_frozen(folder, item["frozen"])
        check_frozen(folder, state["frozen"], restored["digests"])
    return state
