//! The learning rate of each step: a linear warm-up, then a cosine down to the lowest rate.

/// Cosine decay with warm-up (Loshchilov & Hutter 2017, one period), calculated in f64 with `libm`,
/// so that it is the same on every platform.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub lr: f64,
    /// The rate at the end.
    pub min_lr: f64,
    /// Steps over which the rate rises.
    pub warmup_steps: u64,
    /// Steps of the whole run, warm-up included.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of the step after `step` steps, `step` from 0: lr * (step+1)/warmup_steps while
    /// warming up, then along half a cosine to `min_lr` at the end.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.lr * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / decay_steps as f64).min(1.0);
        let cosine = 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress));
        self.min_lr + (self.lr - self.min_lr) * cosine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_peaks_and_ends_at_the_lowest_rate() {
        let s = Schedule { lr: 1e-3, min_lr: 1e-4, warmup_steps: 100, total_steps: 2000 };
        assert_eq!(s.lr(0), 1e-5);
        assert_eq!(s.lr(99), 1e-3);
        assert_eq!(s.lr(100), 1e-3);
        assert!((s.lr(1050) - 5.5e-4).abs() < 1e-12, "half-way is the middle");
        assert!((s.lr(2000) - 1e-4).abs() < 1e-18);
        assert!((s.lr(9000) - 1e-4).abs() < 1e-18, "past the end it stays");
    }

    #[test]
    fn a_lowest_rate_equal_to_the_highest_is_constant() {
        let s = Schedule { lr: 1e-3, min_lr: 1e-3, warmup_steps: 20, total_steps: 300 };
        assert!((20..300).all(|step| s.lr(step) == 1e-3));
    }
}
