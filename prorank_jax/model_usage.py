"""Code for a model card: how each library scores pairs with an exported model, in float32 as prorank-jax.

They are told to: what they choose by themselves depends on library, version, device and the weights' dtype.
"""

from __future__ import annotations

import json
import shlex

from prorank_jax.chat_templates import QWEN_SYSTEM, TURN_END, TURN_START, ChatFrame
from prorank_jax.prompt_settings import PromptSettings
from prorank_jax.prompt_template import DOCUMENT_HEAD, INSTRUCTION_HEAD, QUERY_HEAD, SEPARATOR, TASK
from prorank_jax.prompts import AnswerTokens

# What MxbaiRerankV2 puts around the user's text.
MXBAI_FRAME = (
    f"{TURN_START}system\n{QWEN_SYSTEM}{TURN_END}\n{TURN_START}user\n",
    f"{TURN_END}\n{TURN_START}assistant\n",
)
_CLASSIFIERS = {
    family: f"{family.capitalize()}ForSequenceClassification" for family in ("qwen2", "qwen3", "llama")
}


def own_usage(name: str) -> str:
    """prorank-jax itself."""
    return _section(
        "prorank-jax",
        "",
        f"""\
from prorank_jax.reranker import Reranker

reranker = Reranker.from_pretrained({name!r})
print(reranker.rank("how do plants store water?", ["Roots store water.", "Paris is in France."]))
""",
    )


def transformers_usage(
    name: str, frame: ChatFrame, settings: PromptSettings, answers: AnswerTokens, room: int
) -> str:
    """transformers: the pieces of the prompt, encoded one by one."""
    instruction = f"{INSTRUCTION_HEAD}{settings.instruction}{SEPARATOR}" if settings.instruction else ""
    return _section(
        "transformers",
        "Needs `transformers>=4.57`. The pieces are encoded one by one, as in training (of added tokens that "
        "a text spells, see below).",
        f"""\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name!r})
model = AutoModelForCausalLM.from_pretrained({name!r}, dtype=torch.float32)
PREFIX = {frame.prefix!r}
TASK = {TASK!r}
SUFFIX = {frame.suffix!r}
ROOM = {room}  # tokens of query and document


def ids(text, plain=False):
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=plain)


@torch.inference_mode()
def score(query, document):
    query_ids = ids({instruction + QUERY_HEAD!r} + query, plain=True)[: ROOM * 3 // 4]
    middle = query_ids + ids({SEPARATOR!r}) + ids({DOCUMENT_HEAD!r} + document, plain=True)
    prompt = ids(PREFIX) + middle[:ROOM] + ids({SEPARATOR!r}) + ids(TASK) + ids(SUFFIX)
    logits = model(torch.tensor([prompt]), logits_to_keep=1).logits[0, -1]
    return float(logits[{answers.one}] - logits[{answers.zero}])


pairs = [("how do plants store water?", "Roots store water."), ("how do plants store water?", "Paris.")]
scores = [score(query, document) for query, document in pairs]
print(scores)
""",
    )


def mxbai_usage(name: str, frame: ChatFrame, instruction: str, room: int) -> str:
    """mxbai-rerank 0.1.6, with this model's chat format where it is not the package's own."""
    same = (frame.prefix, frame.suffix) == MXBAI_FRAME
    chat_format = (
        ""
        if same
        else f"MxbaiRerankV2.chat_template = {{\n"
        f'    "prefix": {frame.prefix!r},\n    "suffix": {frame.suffix!r},\n}}\n'
    )
    given = f", instruction={instruction!r}" if instruction else ""
    told = (
        "The package's own prompt is this model's."
        if same
        else "The package writes Qwen's system sentence, which is not this model's: set the model's own chat "
        "format first."
    )
    return _section(
        "mxbai-rerank",
        f"Needs `mxbai-rerank==0.1.6` and `transformers<5`. {told} Where flash-attention is installed the "
        "package takes it, which cannot compute in float32: `sdpa` is torch's own.",
        f"""\
from mxbai_rerank import MxbaiRerankV2

{chat_format}model = MxbaiRerankV2(
    {name!r}, max_length={room}, torch_dtype="float32", attn_implementation="sdpa"
)
queries = ["how do plants store water?"] * 2
documents = ["Roots store water.", "Paris."]
scores = model.predict(queries, documents{given})
print(scores)
""",
    )


def pair_usage(name: str, renders_pairs: bool) -> str:
    """sentence-transformers: CrossEncoder with its LogitScore module."""
    if not renders_pairs:
        return (
            "### sentence-transformers\n\nThis folder has no CrossEncoder layout: its tokenizer joins the "
            "pieces of a prompt in another way when it gets them as one text."
        )
    return _section(
        "sentence-transformers",
        "Needs `sentence-transformers>=5.6` (older ones cut the question off behind a long document) and "
        "`transformers>=4.57`. Its "
        "`prompt` argument is the instruction here. Beyond the longest prompt it cuts the end of the "
        "document; a query longer than three quarters of the room, which prorank-jax cuts first, gets "
        "another score.",
        f"""\
from sentence_transformers import CrossEncoder

model = CrossEncoder({name!r}, model_kwargs={{"dtype": "float32"}})
pairs = [("how do plants store water?", "Roots store water."), ("how do plants store water?", "Paris.")]
scores = model.predict(pairs)
print(scores)
""",
    )


def vllm_usage(
    name: str, family: str, answer_names: tuple[str, ...], renders_pairs: bool, max_length: int
) -> str:
    """vLLM's scoring server, from its documentation."""
    overrides = {
        "architectures": [_CLASSIFIERS[family]],
        "classifier_from_token": list(answer_names),
        "method": "from_2_way_softmax",
    }
    command = (
        f"vllm serve {shlex.quote(name)} --runner pooling --dtype float32 "
        f"--hf-overrides '{json.dumps(overrides)}'"
    )
    template = (
        " The folder's chat template renders a query and a document; vLLM tokenizes the prompt as one text, "
        "so that a text which ends in punctuation or blanks may get other ids than in training, and a "
        "slightly other score."
        if renders_pairs
        else " The folder's chat template renders no pairs: send texts in the format below."
    )
    return (
        "### vLLM\n\nNot run when this folder was made; the command follows vLLM's documentation for "
        "rerankers of this kind. The server answers `/score` and `/rerank` with `sigmoid(score)`. Without "
        "`--dtype float32` vLLM computes in 16 bits, which is faster and rounds the scores."
        f"{template} prorank-jax cuts a document so that its prompt has at most {max_length} tokens; vLLM "
        "does not, and may refuse a longer prompt: shorten long documents before you send them."
        f"\n\n```bash\n{command}\n```"
    )


def _section(title: str, text: str, code: str) -> str:
    said = f"{text}\n\n" if text else ""
    return f"### {title}\n\n{said}```python\n{code}```"
