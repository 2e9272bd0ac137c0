//! A training step as a program: the recordings of a micro-batch, of the update, and of an evaluation.

use crate::config::ModelConfig;
use crate::model::gpt::{Gpt, Inputs, Purpose, SortedPositions};
use crate::ops::adam::{self, AdamW, SCHEDULE_WORDS};
use crate::ops::gemm::{Tunable, Tuning};
use crate::ops::{accumulate, reduce};
use crate::recording::{Group, Program, RecordingId, Residence, Traits, View};

/// What decides the recordings of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepShape {
    /// The model's shape.
    pub model: ModelConfig,
    /// Sequences in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in a step.
    pub grad_accum: usize,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to AdamW's denominator.
    pub eps: f64,
    /// 0: no clipping.
    pub grad_clip: f64,
    /// Seed of dropout.
    pub seed: u64,
}

/// One recording of a micro-batch and what it reads.
pub struct Micro {
    /// Forward, loss and backward.
    pub recording: RecordingId,
    /// Its tokens.
    pub inputs: Inputs,
    /// Its positions, sorted by token.
    pub sorted: SortedPositions,
    /// Its products that may be tuned, in the order of the recording.
    pub products: Vec<Tunable>,
}

/// The update and what it reads and reports.
pub struct Update {
    /// Norm, clipping, AdamW.
    pub recording: RecordingId,
    /// `[3]`: see [`adam::schedule_words`].
    pub schedule: View,
    /// `[3]`: mean loss, gradient norm before clipping, sum of squares.
    pub results: View,
    /// `[1]`: the first element of the arena that stayed as it was because it would not be finite, or
    /// [`adam::NONE_SPOILED`].
    pub spoiled: View,
}

/// A forward pass that reports losses.
pub struct Evaluation {
    /// Forward and loss, without dropout.
    pub recording: RecordingId,
    /// Its tokens.
    pub inputs: Inputs,
    /// `[N]`
    pub losses: View,
}

/// Everything a training session runs, and where its state lies.
pub struct TrainProgram {
    /// Buffers and recordings.
    pub program: Program,
    /// The model in it.
    pub model: Gpt,
    /// Adam's first moments, laid out as the parameters.
    pub m: View,
    /// Adam's second moments.
    pub v: View,
    /// The gradient of the last step, its micro-batches together.
    pub grads: View,
    /// The first micro-batch of a step starts the gradient sum.
    pub first: Micro,
    /// Every further one adds to it; `None` without gradient accumulation.
    pub next: Option<Micro>,
    /// The update after the last micro-batch.
    pub update: Update,
    /// For validation.
    pub evaluation: Evaluation,
}

/// Gradients and losses on their way from the micro-batches to the update.
struct Sums {
    /// `[arena.words]`
    grads: View,
    /// `[1]`
    loss: View,
    /// `[N]`
    losses: View,
    /// `[reduce::scratch_words]`
    scratch: View,
}

impl TrainProgram {
    /// Writes the program of a step's shape for a device of these traits, with products as they are
    /// estimated to be fastest.
    pub fn new(shape: &StepShape, traits: Traits) -> TrainProgram {
        TrainProgram::tuned(shape, traits, &Tuning::default())
    }

    /// The same, with products as a tuning says.
    pub fn tuned(shape: &StepShape, traits: Traits, tuning: &Tuning) -> TrainProgram {
        let mut program = Program::default();
        let p = &mut program;
        let StepShape { batch_size, seed, .. } = *shape;
        let mut model = Gpt::allocate(p, &shape.model, batch_size, Purpose::Training, seed, traits);
        model.tuning = tuning.clone();
        let words = model.arena.words;
        let m = p.add_buffer("adam.m", words, Group::Moments, Residence::Device);
        let v = p.add_buffer("adam.v", words, Group::Moments, Residence::Device);
        let longest_sum = words.max(model.positions());
        let sums = Sums {
            grads: p.add_buffer("gradients", words, Group::Gradients, Residence::Device),
            loss: p.add_buffer("loss", 1, Group::Scratch, Residence::Device),
            losses: p.add_buffer("losses", model.positions(), Group::Activations, Residence::Device),
            scratch: p.add_buffer(
                "sum.scratch",
                reduce::scratch_words(longest_sum),
                Group::Scratch,
                Residence::Device,
            ),
        };
        let first = record_micro(p, traits, shape, &model, &sums, None);
        let next = (shape.grad_accum > 1).then(|| {
            let addend = Addend {
                grads: p.add_buffer("gradients.micro", words, Group::Gradients, Residence::Device),
                loss: p.add_buffer("loss.micro", 1, Group::Scratch, Residence::Device),
            };
            record_micro(p, traits, shape, &model, &sums, Some(addend))
        });
        let update = record_update(p, traits, shape, &model, &sums, m, v);
        let evaluation = record_evaluation(p, traits, &model);
        TrainProgram { program, model, m, v, grads: sums.grads, first, next, update, evaluation }
    }
}

/// Where a micro-batch after the first leaves its own gradient and loss, to be added to the sums.
#[derive(Clone, Copy)]
struct Addend {
    grads: View,
    loss: View,
}

/// A micro-batch's gradient is complete and snapped before it is added to the sum, so the sum is
/// the same wherever each micro-batch was calculated.
fn record_micro(
    program: &mut Program,
    traits: Traits,
    shape: &StepShape,
    model: &Gpt,
    sums: &Sums,
    addend: Option<Addend>,
) -> Micro {
    let name = if addend.is_some() { "micro.next" } else { "micro.first" };
    let positions = model.positions();
    let inputs = Inputs::allocate(program, name, positions);
    let sorted = SortedPositions::allocate(program, name, positions, shape.model.vocab_size);
    let scale = (1.0 / (positions * shape.grad_accum) as f64) as f32;
    let target = addend.unwrap_or(Addend { grads: sums.grads, loss: sums.loss });

    let mut r = model.recorder(traits);
    model.record_hidden(&mut r, &inputs, Purpose::Training);
    model.record_losses(&mut r, &inputs, sums.losses, Some(scale));
    reduce::sum(&mut r, sums.losses, false, sums.scratch, target.loss);
    model.record_backward(&mut r, &inputs, &sorted, target.grads);
    if addend.is_some() {
        accumulate::add(&mut r, target.grads, sums.grads);
        accumulate::add(&mut r, target.loss, sums.loss);
    }
    let products = r.products.clone();
    Micro { recording: r.finish(program, name), inputs, sorted, products }
}

fn record_update(
    program: &mut Program,
    traits: Traits,
    shape: &StepShape,
    model: &Gpt,
    sums: &Sums,
    m: View,
    v: View,
) -> Update {
    let schedule = program.add_buffer("schedule", SCHEDULE_WORDS, Group::Inputs, Residence::Upload);
    let results = program.add_buffer("results", 3, Group::Results, Residence::Readback);
    let spoiled = program.add_buffer("spoiled", 1, Group::Results, Residence::Readback);
    let sum_of_squares = program.add_buffer("sum_of_squares", 1, Group::Scratch, Residence::Device);
    let factor = program.add_buffer("clip.factor", 1, Group::Scratch, Residence::Device);
    let inv_count = (1.0 / (model.positions() * shape.grad_accum) as f64) as f32;

    let mut r = model.recorder(traits);
    reduce::sum(&mut r, sums.grads, true, sums.scratch, sum_of_squares);
    let max_norm = shape.grad_clip as f32;
    adam::clip_factor(&mut r, max_norm, inv_count, sum_of_squares, sums.loss, factor, results, spoiled);
    let adam = AdamW {
        beta1: shape.beta1,
        beta2: shape.beta2,
        eps: shape.eps,
        decay_params: model.arena.decay_words,
    };
    adam.update(&mut r, model.params, sums.grads, m, v, schedule, factor, spoiled);
    Update { recording: r.finish(program, "update"), schedule, results, spoiled }
}

/// An evaluation works on the parameters and activations of training, without dropout.
fn record_evaluation(program: &mut Program, traits: Traits, model: &Gpt) -> Evaluation {
    let inputs = Inputs::allocate(program, "evaluation", model.positions());
    let losses =
        program.add_buffer("evaluation.losses", model.positions(), Group::Results, Residence::Readback);
    let mut r = model.recorder(traits);
    model.record_hidden(&mut r, &inputs, Purpose::Inference);
    model.record_losses(&mut r, &inputs, losses, None);
    Evaluation { recording: r.finish(program, "evaluation"), inputs, losses }
}
