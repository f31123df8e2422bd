"""The cost of one step of the objective to each replica: work, communication, memory.

For a global batch of n images, embeddings of width d and R replicas with n/R rows each:

    form            work, forward      backward           sent, in float32 values
    "correlation"   2·n·d² / R         4·n·d² / R         2(R−1)/R · (d² + 6d + 1)
    "gram"          4·n²·d / R         4·n²·d / R         2(R−1)/R · (9d + 1)  +  (R−1)/R · 2·n·d
                    4·n²·d · σ(n)  where R = 1

    form            memory, in float32 values
    "correlation"   2·d²                                  + 8·n·d / R
    "gram"          3·n² / R  and, where R > 1, 2·n·d     + 8·n·d / R

Work counts the floating-point operations of the matrix products, two per multiply-add; the rest is
of order n·d/R. A single replica exploits the symmetry of z zᵀ: it computes one corner and the two
blocks on the diagonal, which it splits in turn while they are large enough, so that

    σ(n) = 1/4 + σ(n/2)/2  for n ≥ 256,  1 for less:  3/4, 5/8, 9/16, … at n = 256, 512, 1024, …

Replicas communicate in a ring (Patarasuk and Yuan, 2009), where each sends 2(R−1)/R · m values to
sum arrays of m values, and (R−1)/R · m to gather m values in all.

- Both forms sum the number of rows and, for each of two views, the means, what rounding left of
  them, and the variances: 1 + 6·d values.
- "correlation" sums the d×d matrix, and nothing in the backward pass. It keeps that matrix and,
  temporarily, its square or the input of the sum.
- "gram" sums the diagonal of C and, in the backward pass, 2·d values, and gathers the embeddings of
  both views. It keeps those, two matrices of n/R × n and, temporarily, their product.

Memory is the peak, not counting the two embeddings, without XLA, which needs less. About eight
arrays of the embeddings' own shape exist at once, gradients included; that number is measured.

Summing the gradients of P parameters sends another 2(R−1)/R · P values, whatever the form.
"""

import dataclasses

FORMS = ("correlation", "gram")
NUMBER = 4  # bytes of a float32
ARRAYS_OF_ROWS = 8  # arrays of n/R × d that exist at once, measured on CPUs
SYMMETRIC_FROM = 256  # images: smaller products are not split


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one step to each replica.

    Attributes:
        forward: floating-point operations of the objective itself.
        backward: floating-point operations of its gradient.
        sent: bytes sent to other replicas.
        memory: peak bytes, not counting the embeddings.
    """

    forward: float
    backward: float
    sent: float
    memory: float


def objective_cost(n, d, replicas, form):
    """Returns the cost of `barlow_twins_terms` and its gradient.

    >>> cost = objective_cost(256, 8192, replicas=1, form="gram")
    >>> f"{cost.backward / 1e9:.1f} Gflop, {cost.memory / 2**20:.0f} MiB"
    '2.1 Gflop, 65 MiB'

    Args:
        n: images in the global batch.
        d: the embeddings' width.
        replicas: R ≥ 1.
        form: `"correlation"` or `"gram"`.
    """
    standardization = summed(6 * d + 1, replicas)
    rows = ARRAYS_OF_ROWS * n * d / replicas
    if form == "correlation":
        product = 2 * n * d * d / replicas
        sent = standardization + summed(d * d, replicas)
        return Cost(product, 2 * product, sent, NUMBER * (2 * d * d + rows))
    product = 2 * n * n * d / replicas
    forward = 4 * d * gram_multiplications(n) if replicas == 1 else 2 * product
    gathered = NUMBER * (replicas - 1) / replicas * 2 * n * d
    sent = standardization + summed(3 * d, replicas) + gathered
    everything = 2 * n * d if replicas > 1 else 0
    return Cost(forward, 2 * product, sent, NUMBER * (3 * n * n / replicas + everything + rows))


def gram_multiplications(n):
    """Counts the elements of z zᵀ, n × n, that a single replica computes: n²·σ(n)."""
    if n < SYMMETRIC_FROM:
        return n * n
    half = n // 2
    return half * (n - half) + gram_multiplications(half) + gram_multiplications(n - half)


def summed(numbers, replicas):
    """Returns the bytes that each replica sends to sum arrays of so many float32 values."""
    return NUMBER * 2 * (replicas - 1) / replicas * numbers


def chosen_form(n, d):
    """Returns the form that `form="auto"` takes for n images in the global batch."""
    return "gram" if n < d else "correlation"
