"""The factor that keeps gradients of float16 from becoming 0, found while training."""

from dataclasses import dataclass

# float16 holds numbers up to 65504: at this scale only a gradient above 1e12 would not fit.
_SMALLEST = 2.0**-24


@dataclass
class LossScale:
    """A scale that grows while gradients are finite and shrinks when they are not.

    See Micikevicius et al., "Mixed Precision Training", section 3.2; the rule is that of
    ``torch.amp.GradScaler``.

    Attributes:
        scale: What the loss is multiplied by.
        growth_factor: What the scale is multiplied by after ``growth_interval`` updates in a row.
        backoff_factor: What it is multiplied by when gradients were not finite.
        growth_interval: See ``growth_factor``.
        streak: Updates in a row so far.
    """

    scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    streak: int = 0

    def update(self, *, overflowed: bool) -> None:
        """Adapts the scale after gradients that were finite, or that were not and are left out.

        Raises:
            FloatingPointError: They are not finite however small the scale is.
        """
        if not overflowed:
            self.streak += 1
            if self.streak == self.growth_interval:
                self.scale, self.streak = self.scale * self.growth_factor, 0
            return
        if self.scale < _SMALLEST:
            raise FloatingPointError(
                f"gradients are NaN or infinite even with the loss scaled by {self.scale:g}"
            )
        self.scale, self.streak = self.scale * self.backoff_factor, 0
