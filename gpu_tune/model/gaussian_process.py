"""A small Gaussian process: what a landscape looks like from a few dozen trials.

Trees need some fifty trials before their splits mean anything; a Matern kernel over knob coordinates generalises from
twenty. It knows how sure it is, so that one batch can be spread where it learns most. Rasmussen and Williams,
"Gaussian Processes for Machine Learning" (2006), chapters 2, 4.2 and 5.4; the batch is filled by conditioning on each
pick in turn (its variance shrinks, its mean stays: "kriging believer").
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]
LENGTH, NOISE = 0.7, 0.02
"""Centres of the priors: length scales in units of a knob's whole range, noise variance as a share of the signal's."""
_STEPS = 16
_ROWS = 512
"""Rows predicted at a time: their kernel stays in the cache."""


class GaussianProcess:
    """Matern 3/2 with one length scale a coordinate, fitted by its marginal likelihood under weak log-normal priors."""

    def __init__(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> None:
        """``x`` (n, d) coordinates in 0..1, ``y`` (n,) larger is better; n of at least 2."""
        self.x = np.asarray(x, dtype=np.float64)
        self.mean = float(np.mean(y))
        self.z = np.asarray(y, dtype=np.float64) - self.mean
        d = self.x.shape[1]
        theta = self._climb(np.concatenate([np.full(d, math.log(LENGTH)), [math.log(NOISE)]]))
        self.length, self.noise = np.exp(theta[:-1]), float(np.exp(theta[-1]))
        k, _ = _matern(self.x / self.length, self.x / self.length)
        k[np.diag_indices(len(k))] += self.noise
        self.whiten = np.linalg.inv(np.linalg.cholesky(k))
        white = self.whiten @ self.z
        self.variance = max(float(white @ white) / len(self.z), 1e-12)
        self.alpha = self.whiten.T @ white

    def predict(self, x: NDArray[np.floating]) -> Array:
        """Expected ``y`` of coordinates (m, d)."""
        scale = 1.0 / self.length.astype(np.float32)  # single precision: this ranks many thousand rows
        scaled, own, alpha = np.asarray(x, dtype=np.float32) * scale, self.x.astype(np.float32) * scale, self.alpha
        some = [_matern(scaled[i : i + _ROWS], own)[0] @ alpha.astype(np.float32) for i in range(0, len(x), _ROWS)]
        return np.asarray(self.mean + np.concatenate([np.zeros(0, dtype=np.float32), *some]), dtype=np.float64)

    def posterior(self, x: NDArray[np.floating]) -> tuple[Array, Array]:
        """Mean (m,) and covariance (m, m) of coordinates (m, d)."""
        scaled = np.asarray(x, dtype=np.float64) / self.length
        k, _ = _matern(scaled, self.x / self.length)
        v = k @ self.whiten.T
        return self.mean + k @ self.alpha, self.variance * (_matern(scaled, scaled)[0] - v @ v.T)

    def pick(
        self,
        x: NDArray[np.floating],
        n: int,
        best: float,
        trend: Array | None = None,
        pending: NDArray[np.floating] | None = None,
        more: int = 0,
        least: float = 0.0,
    ) -> list[int]:
        """Indices of ``n`` rows of ``x`` to try together: the largest expected improvement on ``best``, one after the
        other, and of up to ``more`` rows as long as ``least`` is expected of each. ``trend`` (m,) is added to the mean:
        what was taken off ``y`` before fitting. ``pending`` (p, d): rows that are being tried already, which will tell
        of their neighbourhoods."""
        m = len(x)
        mean, cov = self.posterior(x if pending is None or not len(pending) else np.concatenate([x, pending]))
        mean = mean[:m] if trend is None else mean[:m] + trend
        for i in range(m, len(cov)):
            cov = self._known(cov, i)
        cov = cov[:m, :m]
        picked: list[int] = []
        for _ in range(min(n + more, m)):
            sd = np.sqrt(np.maximum(np.diag(cov), 1e-12 * self.variance))
            gain = expected_improvement(mean - best, sd)
            gain[picked] = -1.0
            i = int(np.argmax(gain))
            if len(picked) >= n and gain[i] < least:
                break
            picked.append(i)
            cov = self._known(cov, i)
        return picked

    def _known(self, cov: Array, i: int) -> Array:
        """The covariance once row ``i`` is known, whatever its value."""
        return cov - np.outer(cov[:, i], cov[i]) / (cov[i, i] + self.noise * self.variance)

    def _climb(self, theta: Array) -> Array:
        """Rprop (signs of the gradient, own step per coordinate): robust on a rough likelihood and cheap."""
        d = self.x.shape[1]
        low = np.concatenate([np.full(d, math.log(0.05)), [math.log(1e-5)]])
        high = np.concatenate([np.full(d, math.log(20.0)), [math.log(1.0)]])
        step, before = np.full(d + 1, 0.3), np.zeros(d + 1)
        best, kept = math.inf, theta
        for _ in range(_STEPS):
            value, gradient = self._loss(theta)
            if value < best:
                best, kept = value, theta
            agree = np.sign(gradient) * np.sign(before)
            step = np.clip(np.where(agree > 0, step * 1.3, np.where(agree < 0, step * 0.5, step)), 1e-3, 1.0)
            before = gradient
            theta = np.clip(theta - np.sign(gradient) * step, low, high)
        return kept

    def _loss(self, theta: Array) -> tuple[float, Array]:
        """Negative log marginal likelihood (signal variance at its best value) with priors, and its gradient."""
        n, d = self.x.shape
        length, noise = np.exp(theta[:d]), math.exp(theta[d])
        scaled = self.x / length
        k, decay = _matern(scaled, scaled)
        k[np.diag_indices(n)] += noise
        try:
            chol = np.linalg.cholesky(k)
        except np.linalg.LinAlgError:
            return math.inf, np.zeros(d + 1)
        inverse = np.linalg.inv(chol)
        inverse = inverse.T @ inverse
        alpha = inverse @ self.z
        fit = max(float(self.z @ alpha), 1e-12)
        off_length, off_noise = theta[:d] - math.log(LENGTH), theta[d] - math.log(NOISE)
        value = 0.5 * n * math.log(fit / n) + float(np.log(np.diag(chol)).sum())
        value += 0.5 * float(off_length @ off_length) + 0.125 * off_noise * off_noise
        m = inverse - (n / fit) * np.outer(alpha, alpha)
        w = 3.0 * m * decay
        slope = (w.sum(axis=1)[:, None] * scaled * scaled).sum(axis=0) - (scaled * (w @ scaled)).sum(axis=0)
        return value, np.concatenate([slope + off_length, [0.5 * noise * float(np.trace(m)) + 0.25 * off_noise]])


class TrendProcess:
    """A Gaussian process beside a trend, what somebody else expects of ``y``: the trend is its linear mean and one more
    coordinate, so that few trials tell how much the trend is worth, and where. Without a trend, a Gaussian process."""

    def __init__(self, x: NDArray[np.floating], y: Array, trend: Array | None = None) -> None:
        """``x`` (n, d) coordinates in 0..1, ``y`` and ``trend`` (n,), larger is better; n of at least 2."""
        self._slope = 0.0 if trend is None else _slope(trend, y)
        self._process = GaussianProcess(_beside(x, trend), y if trend is None else y - self._slope * trend)

    def predict(self, x: NDArray[np.floating], trend: Array | None = None) -> Array:
        """Expected ``y`` (m,) of coordinates (m, d) and their trend."""
        expected = self._process.predict(_beside(x, trend))
        return expected if trend is None else expected + self._slope * trend

    def pick(
        self,
        x: NDArray[np.floating],
        n: int,
        best: float,
        trend: Array | None = None,
        pending: NDArray[np.floating] | None = None,
        pending_trend: Array | None = None,
        more: int = 0,
        least: float = 0.0,
    ) -> list[int]:
        """As ``GaussianProcess.pick``, given the trend of the rows and of those that are being tried."""
        flying = None if pending is None else _beside(pending, pending_trend)
        sloped = np.zeros(len(x)) if trend is None else self._slope * trend
        return self._process.pick(_beside(x, trend), n, best, sloped, flying, more, least)


def _beside(x: NDArray[np.floating], trend: Array | None) -> NDArray[np.floating]:
    return x if trend is None else np.concatenate([x, trend[:, None]], axis=1)


def _slope(x: Array, y: Array) -> float:
    """Least squares of y on x, shrunk towards 0 as by four trials that show no effect, never negative."""
    dx = x - x.mean()
    return max(0.0, float(dx @ (y - y.mean())) / (float(dx @ dx) + 4.0 * float(np.var(x)) + 1e-9))


def relative_speed(times: Array) -> Array:
    """What the Gaussian process learns: best / time, 0 for failures; it saturates on the long slow tail."""
    ok = np.isfinite(times)
    return np.divide(np.min(times[ok], initial=np.inf), times, out=np.zeros(len(times)), where=ok)


def expected_improvement(gap: Array, sd: Array) -> Array:
    """E[max(0, N(gap, sd^2))]."""
    z = gap / sd
    return np.asarray(sd * (z * ndtr(z) + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)))


def _matern(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The kernel between scaled rows, and exp(-r), which its gradient needs; in the rows' own precision."""
    r = a @ b.T
    r *= -2
    r += (a * a).sum(axis=1)[:, None]
    r += (b * b).sum(axis=1)[None]
    np.maximum(r, 0, out=r)
    r *= 3
    np.sqrt(r, out=r)
    decay = np.exp(-r)
    r += 1
    r *= decay
    return r, decay
