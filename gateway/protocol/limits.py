"""The limits of one request. Each constant bounds a field or a product of fields, with the reason
beside it. The models hold them as types, so that a request over a limit gets a 400 that names the
field. Limits of the served model (context, vocabulary) are checked elsewhere.
"""

from __future__ import annotations

# The body. Its bytes are bounded by --max-body-bytes, but Python objects cost more than bytes: one
# of 8 MiB can hold 2.8 million lists, which take the interpreter's lock for a second.
MAX_JSON_CONTAINERS = 100_000  # objects and arrays, about 15 ms of reading
MAX_JSON_MEMBERS = 100_000  # of all objects together, about 30 ms
MAX_JSON_STRINGS = 200_000  # member names too, about 15 ms
# Values of all kinds, about 40 ms: a list of MAX_TOKEN_IDS, with room for other fields. A member
# counts for five more, so that no body reaches both limits.
MAX_JSON_VALUES = 1_100_000
MAX_JSON_LONG_DIGITS = 1_000_000  # of numbers with 64 digits and more, about 5 ms

INT64_MAX = (1 << 63) - 1  # integers reach the engine as 64 bits

# Conversations.
MAX_MESSAGES = 10_000  # each becomes an object and a pass through the chat template
MAX_PARTS = 4_096  # of one message's content
MAX_TYPED_MARKERS = 100_000  # special tokens' texts, each of which is hidden from the template
MAX_TOOLS = 1_024  # each is rendered, and compiled into one grammar
MAX_TOOL_CALLS = 1_024  # of one message
MAX_DOCUMENTS = 1_024
MAX_INCLUDED = 64  # names of `include`
MAX_MCP_SERVERS = 64
MAX_TEMPLATE_ARGUMENTS = 128
MAX_METADATA = 64  # four times OpenAI's; nothing reads it, but /v1/responses shows it again

# Names and ids, which are looked up, stored or returned.
MAX_MODEL_CHARS = 1_024
MAX_NAME_CHARS = 256
MAX_ID_CHARS = 1_024  # `user`, `tool_call_id`, ...
MAX_REQUEST_ID_CHARS = 128
MAX_CACHE_SALT_CHARS = 1_024

# Stop strings, searched at each token: building the automaton of 8,192 characters takes 10 ms.
MAX_STOPS = 128
MAX_STOP_CHARS = 1_024  # of one
MAX_STOPS_CHARS = 8_192  # of all together

# Parameters that each sequence sends to the engine, whose sampler reads them at each token.
MAX_STOP_TOKEN_IDS = 1_024
MAX_BAD_WORDS = 1_024
MAX_BAD_WORD_CHARS = 1_024  # of one
MAX_BAD_WORDS_CHARS = 65_536  # of all together: they are encoded in about 60 ms
MAX_LOGIT_BIAS = 1_024
MAX_TOKEN_IDS = 1_000_000  # of one list, more than any vocabulary or context holds

# Products. A prompt is sent to the engine once for each of its choices.
MAX_PROMPTS = 2_048
MAX_CHOICES = 128  # `n` and `best_of`
MAX_SEQUENCES = 2_048  # prompts times choices
MAX_SENT_IDS = 4_000_000  # token ids that all sequences carry together, about 20 MB

# Constraints. What a compile may cost has limits of its own; these bound what is read before it.
MAX_ALTERNATIVES = 10_000  # of `choice`: half of what the mask engine takes at one place
MAX_CONSTRAINT_CHARS = 2_000_000  # a regex, a grammar or a schema as text; the compiler's limit
