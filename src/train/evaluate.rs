//! The loss over a whole text, each position once.

use crate::data::EvaluationWindows;
use crate::error::Result;
use crate::train::session::MicroBatch;

/// Mean loss over a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy in nats a token.
    pub loss: f64,
    /// Predicted tokens.
    pub tokens: usize,
}

/// Runs `losses` over every window of a text and averages in f64, position by position.
pub fn evaluate(
    tokens: &[u32],
    windows: &EvaluationWindows,
    batch_words: usize,
    context: usize,
    mut losses: impl FnMut(&MicroBatch) -> Result<Vec<f32>>,
) -> Result<Evaluation> {
    let mut batch = MicroBatch { tokens: vec![0; batch_words], targets: vec![0; batch_words] };
    let (mut sum, mut counted) = (0.0f64, 0);
    for first in (0..windows.count()).step_by(batch_words / context) {
        counted += windows.fill(tokens, first, &mut batch.tokens, &mut batch.targets);
        // One after the other, so that the batch size changes no bit. What past the end was not
        // predicted has a loss of 0.
        losses(&batch)?.iter().for_each(|&loss| sum += f64::from(loss));
    }
    Ok(Evaluation { loss: sum / counted as f64, tokens: counted })
}
