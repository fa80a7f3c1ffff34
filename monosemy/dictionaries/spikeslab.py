"""Spike-and-slab dictionaries: every feature of a row has a probability of being present, and a value if it is.

The model: x = Σ_n s_n w_n W_dec,n + b_dec + noise,  s_n ~ Bernoulli(α),  w_n ~ N(m, τ²),  noise ~ N(0, s² I). What is
trained is the evidence lower bound of q(s, w | x) = Π_n [γ_n N(z_n, σ²) + (1 − γ_n) δ_0], whose encoder is linear:

    z = W_enc x + b_enc,   γ_n = sigmoid(gain_n (z_n − threshold_n)),   σ² = s²τ² / (s² + τ²), which is its optimum
    L = E‖x − x̂‖² + 2s² KL(q ‖ prior),   E‖x − x̂‖² = ‖x − b_dec − Σ γ z W_dec‖² + Σ_n [γ σ² + γ (1 − γ) z²]

With a linear decoder of unit rows that expectation is exact: nothing is sampled. L is 2s² times the negative bound.

- The dial k is the prior's expected number of features: α = k / N (at most ½). It is no target: L0 follows from s².
- s², and one m and τ for all features, are running estimates (empirical Bayes). A slab of its own for each feature
  let weak ones shrink, and many died. s² is reached from the rows' own variance, geometrically, over the first part
  of a run (deterministic annealing); with s² as estimated from the start, features got stuck as copies of others.

**Presence.** γ is over-confident, as the optimum of a factorised bound is: logit γ(z) is the mean of a log-odds where
what z alone tells is the mean of a probability. So a second reading of z is trained beside it, which changes nothing
else, by cross-entropy to t, the posterior probability of feature n when the others are at their means,

    t = sigmoid( logit α_n + ½ log(s²/(τ²+s²)) + p²/2s² − (p−m)²/2(τ²+s²) ),   p = ⟨x − x̂ + γ_n z_n W_dec,n, W_dec,n⟩
    presence = sigmoid(v + curve · v²),   v = max( slope (z − shift), −1 / (2 curve) )

with α_n the running mean of γ_n. Log-odds of a Gaussian slab are quadratic in z; the max keeps presence rising with z.
A code is z where presence > ½, that is z > shift. `benchmarks/calibration.py` measures how well it is calibrated.

Source: Tonolini, Jensen & Murray-Smith 2019, "Variational Sparse Coding", arXiv 1912.09165... which samples s and w by
a relaxed reparameterisation, has a deep decoder, and warms its spike up. Left out: pseudo-inputs as a prior, its
"variational" mixture; free decoder norms.

Shapes: M members, B rows, N width, D = d_in, E = d_out.
"""
