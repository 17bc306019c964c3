"""Train a character-level language model with the library's public functions, as ``nplstm train`` does.

    python examples/language_model.py [TEXT]

Without a text it reads the documentation that CPython ships. The text is cut into parallel streams; each update
reads a window of every stream, and each window starts from the state after the one before (truncated BPTT).
"""

import argparse
import math
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from tqdm import tqdm

import nplstm
from nplstm.backends import get_backend

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("text", type=Path, nargs="?", help="a UTF-8 text file")
parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy", help="cupy runs on a GPU")
parser.add_argument("--updates", type=int, default=400, help="number of updates (default: 400)")
parser.add_argument("--hidden", type=int, default=128, help="cells of the LSTM (default: 128)")
arguments = parser.parse_args()

BATCH, WINDOW, EMBEDDING = 32, 64, 32
backend = get_backend(arguments.backend)

text = (
    arguments.text.read_text(encoding="utf-8-sig")
    if arguments.text
    else "\n".join(map(topics.get, sorted(topics)))
)
alphabet = sorted(set(text))
index = {character: k for k, character in enumerate(alphabet)}
numbers = np.array([index[character] for character in text])

length = (len(numbers) - 1) // BATCH
if length < 1:
    parser.error(f"the text has {len(text)} characters; {BATCH} streams need at least {BATCH + 1}")
inputs = backend.asarray(numbers[: BATCH * length].reshape(BATCH, length).T.copy())  # (steps, streams)
targets = backend.asarray(numbers[1 : BATCH * length + 1].reshape(BATCH, length).T.copy())

embedding = nplstm.Embedding(len(alphabet), EMBEDDING, backend=arguments.backend, rng=0)
lstm = nplstm.LSTM(EMBEDDING, arguments.hidden, backend=arguments.backend, rng=1)
head = nplstm.Linear(arguments.hidden, len(alphabet), backend=arguments.backend, rng=2)
optimizer = nplstm.Adam(
    nplstm.JoinedParameters(embedding=embedding.parameters, lstm=lstm.parameters, head=head.parameters), lr=5e-3
)


def update(x, y, state):
    """Update the parameters on a window, (T, B); return the loss and the state after the window."""
    embedded = embedding.record(x)
    recurrent = lstm.record(embedded.output, state)
    scores = head.record(recurrent.output)
    loss, grad_scores = nplstm.cross_entropy(scores.output, y)

    grad_head = scores.backward(grad_scores)
    grad_lstm = recurrent.backward(grad_head.input)
    grad_embedding = embedded.backward(grad_lstm.input)
    grads = nplstm.JoinedParameters(
        embedding=grad_embedding.parameters, lstm=grad_lstm.parameters, head=grad_head.parameters
    )
    optimizer.step(nplstm.clip_grad_norm(grads, max_norm=1.0)[0])
    return loss, (recurrent.h_n, recurrent.c_n)


state, mean, start = None, math.log(len(alphabet)), 0
with tqdm(range(arguments.updates), unit="update") as updates:
    for _ in updates:
        if start + WINDOW > length:
            state, start = None, 0  # a new pass over the text
        loss, state = update(inputs[start : start + WINDOW], targets[start : start + WINDOW], state)
        start += WINDOW
        mean += (loss - mean) * 0.05
        updates.set_postfix_str(f"{mean / math.log(2):.3f} bits/char", refresh=False)


def sample(prompt, count, temperature=0.7):
    """Yield the characters that the model generates after the prompt."""
    rng = np.random.default_rng(0)
    state, following = None, [index[character] for character in prompt]
    for _ in range(count):
        output, state = lstm(embedding(backend.asarray(np.array(following)[:, None])), state)
        scores = backend.to_numpy(head(output)[-1, 0]).astype(float) / temperature
        odds = np.exp(scores - scores.max())
        following = [rng.choice(len(alphabet), p=odds / odds.sum())]
        yield alphabet[following[0]]


print(f"after {arguments.updates} updates: {mean / math.log(2):.3f} bits per character (running mean)\n")
print("".join(sample(text[:20], 300)))
