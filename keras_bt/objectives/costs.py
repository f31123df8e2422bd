"""What one step of the objective costs each replica: work, communication, memory.

For a global batch of n images, embeddings of width d and R replicas with n/R rows each:

    form            work, forward      backward           sent, in numbers of 4 bytes
    "correlation"   2·n·d² / R         4·n·d² / R         2(R−1)/R · (d² + 6d + 1)
    "gram"          4·n²·d / R         4·n²·d / R         2(R−1)/R · (9d + 1)  +  (R−1)/R · 2·n·d
                    4·n²·d · σ(n)  where R = 1

    form            memory, in numbers of 4 bytes
    "correlation"   2·d²                                  + 8·n·d / R
    "gram"          3·n² / R  and, where R > 1, 2·n·d     + 8·n·d / R

Work is floating-point operations, two per multiply-add, of the matrix products; the rest is of
order n·d/R. One replica makes use of z zᵀ being symmetric: it computes one corner and both blocks
on the diagonal, in the same way if they are large enough, so that

    σ(n) = 1/4 + σ(n/2)/2  for n ≥ 256,  1 for less:  3/4, 5/8, 9/16, … at n = 256, 512, 1024, …

Each replica sends as a ring does (Patarasuk and Yuan, 2009): 2(R−1)/R · m for the sum
of arrays of m numbers, (R−1)/R · m for gathering m numbers in all.

- Both forms sum the count of rows and, for each of two views, means, what rounding left of them
  and variances: 1 + 6·d numbers.
- "correlation" sums the d×d matrix, and nothing backward. It keeps that and, for a while, its
  square or the sum's input.
- "gram" sums the diagonal of C, backward 2·d numbers, and gathers the embeddings of both views. It
  keeps those, two matrices of n/R × n and, for a while, their product.

Memory is at the peak, beside the two embeddings and without XLA, which needs less. Of arrays of the
embeddings' own shape there are about eight at once, gradients included; that number is measured.

The sum of the gradients of P parameters sends 2(R−1)/R · P numbers more, whatever the form.
"""

import dataclasses

NUMBER = 4  # bytes of a float32
ARRAYS_OF_ROWS = 8  # of n/R × d at once, measured on CPUs
SYMMETRIC_FROM = 256  # images: with fewer, products of the halves take as long as one of the whole

# Floating-point operations in the time of sending one byte: a V100 as in the paper's runs, with
# 15.7e12 float32 operations per second and 150e9 bytes per second each way over NVLink 2 (NVIDIA's
# data sheet). An A100 has 65; TF32 or a network between machines make it 500 and more. The choice
# depends on it only where 3d/4 ≤ n < d, and there the work of the forms differs by a third at most.
MACHINE_BALANCE = 100


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one step costs each replica.

    Attributes:
        forward: floating-point operations of the objective itself.
        backward: floating-point operations of its gradient.
        sent: bytes sent to other replicas.
        memory: bytes at the peak, beside the embeddings.
    """

    forward: float
    backward: float
    sent: float
    memory: float

    @property
    def work(self):
        """Floating-point operations, forward and backward."""
        return self.forward + self.backward

    @property
    def time(self):
        """Work and communication one after the other, in units of one floating-point operation."""
        return self.work + MACHINE_BALANCE * self.sent


def objective_cost(n, d, replicas, form):
    """The cost of `keras_bt.objectives.barlow_twins.barlow_twins_terms` and its gradient.

    Args:
        n: int, images in the global batch.
        d: int, the embeddings' width.
        replicas: int R ≥ 1.
        form: `"correlation"` or `"gram"`.

    Returns:
        `Cost`.
    """
    standardization = summed(6 * d + 1, replicas)
    rows = ARRAYS_OF_ROWS * n * d / replicas
    if form == "correlation":
        product = 2 * n * d * d / replicas
        sent = standardization + summed(d * d, replicas)
        return Cost(product, 2 * product, sent, NUMBER * (2 * d * d + rows))
    product = 2 * n * n * d / replicas
    forward = 4 * d * gram_multiplications(n) if replicas == 1 else 2 * product
    sent = standardization + summed(3 * d, replicas) + gathered(2 * n * d, replicas)
    everything = 2 * n * d if replicas > 1 else 0
    return Cost(forward, 2 * product, sent, NUMBER * (3 * n * n / replicas + everything + rows))


def halves_gram(n):
    """Whether one replica with n images (int or None) makes use of the symmetry of z zᵀ."""
    return n is not None and n >= SYMMETRIC_FROM


def gram_multiplications(n):
    """How many elements of z zᵀ, one replica's n × n, are computed: n²·σ(n)."""
    if not halves_gram(n):
        return n * n
    half = n // 2
    return half * (n - half) + gram_multiplications(half) + gram_multiplications(n - half)


def cheaper_form(n, d, replicas):
    """The form that takes less time by `Cost.time`: `"gram"` for few images, or `"correlation"`.

    One replica has nothing to send, and "gram" wins for 2n·(1 + σ(n)) < 3d. With the number of
    replicas the work of each falls and what it sends does not, so the border rises towards n < d.

    Args:
        n: int, images in the global batch.
        d: int, the embeddings' width.
        replicas: int R ≥ 1.
    """
    gram, correlation = (
        objective_cost(n, d, replicas, form).time for form in ("gram", "correlation")
    )
    return "gram" if gram < correlation else "correlation"


def summed(numbers, replicas):
    """Bytes that each replica sends so that all have the sum of their arrays of so many numbers."""
    return NUMBER * 2 * (replicas - 1) / replicas * numbers


def gathered(numbers, replicas):
    """Bytes that each replica sends so that all have so many numbers, an equal part from each."""
    return NUMBER * (replicas - 1) / replicas * numbers
