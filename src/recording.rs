//! What a program does on a device, as plain data: buffers, dispatches, and the one trait that runs them.
//!
//! Nothing here knows Vulkan or the CPU executor. `model` and `ops` write a [`Program`]; an [`Executor`]
//! allocates its buffers once and replays its recordings. Sizes and offsets are counted in 32-bit words,
//! because every tensor element, token and counter in hlx is one word.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::kernels::Kernel;
use crate::precision::Precision;

/// Views start at multiples of this many words: 256 bytes, the largest
/// `minStorageBufferOffsetAlignment` that Vulkan allows a device to ask for.
pub const VIEW_ALIGNMENT_WORDS: usize = 64;

/// How many submits of one recording may be in flight. Every [`Residence::Upload`] and
/// [`Residence::Readback`] buffer exists this many times, so that the host can prepare the next
/// submit and read an earlier one's results while the device works.
pub const RING_SLOTS: usize = 4;

/// Rounds a length in words up to where the next view may start.
pub const fn align_words(words: usize) -> usize {
    words.div_ceil(VIEW_ALIGNMENT_WORDS) * VIEW_ALIGNMENT_WORDS
}

/// Names a buffer of a [`Program`] by its index in [`Program::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// What a buffer is for: the rows of the memory plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// The model's parameters.
    Parameters,
    /// Their gradients.
    Gradients,
    /// Both moments of AdamW.
    Moments,
    /// What a forward pass keeps.
    Activations,
    /// What does not outlive a part of a pass.
    Scratch,
    /// What the host gives.
    Inputs,
    /// What the host reads.
    Results,
}

/// Where a buffer lives and who touches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// One copy in device memory. The host reaches it only between submits, through
    /// [`Executor::write`] and [`Executor::read`]. Zero-filled when the program is loaded.
    Device,
    /// One copy per ring slot, written by the host at each submit of the recording that reads it.
    Upload,
    /// One copy per ring slot, written by the device, read by the host through [`Executor::fetch`].
    Readback,
}

/// A buffer that a program needs.
#[derive(Clone, Debug)]
pub struct BufferSpec {
    /// Unique within the program; appears in messages and validation output.
    pub name: String,
    /// Length in 32-bit words, at least 1.
    pub words: usize,
    /// Its row of the memory plan.
    pub group: Group,
    /// Where it lives.
    pub residence: Residence,
}

/// A range of a buffer, as a dispatch binds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// First word; a multiple of [`VIEW_ALIGNMENT_WORDS`].
    pub offset: usize,
    /// Length in words, at least 1.
    pub words: usize,
}

impl View {
    /// True if the two views share at least one word.
    pub fn overlaps(&self, other: &View) -> bool {
        self.buffer == other.buffer
            && self.offset < other.offset + other.words
            && other.offset < self.offset + self.words
    }

    /// True if all of the other view lies in this one.
    pub fn contains(&self, other: &View) -> bool {
        self.buffer == other.buffer
            && self.offset <= other.offset
            && other.offset + other.words <= self.offset + self.words
    }

    /// A part of this view, `offset` words in (a multiple of [`VIEW_ALIGNMENT_WORDS`]).
    pub fn part(&self, offset: usize, words: usize) -> View {
        assert!(offset.is_multiple_of(VIEW_ALIGNMENT_WORDS), "view starts at word {offset}, unaligned");
        assert!(offset + words <= self.words, "part [{offset}, +{words}) of a view of {} words", self.words);
        View { buffer: self.buffer, offset: self.offset + offset, words }
    }

    /// This view in consecutive parts of at most `max_words`, each but the last a multiple of `unit` words
    /// long, with the word that each starts at. One unit is never cut, whatever `max_words` is.
    pub fn pieces(&self, max_words: usize, unit: usize) -> impl Iterator<Item = (usize, View)> + use<> {
        let (view, step) = (*self, (max_words / unit).max(1).saturating_mul(unit));
        (0..view.words).step_by(step).map(move |at| (at, view.part(at, step.min(view.words - at))))
    }
}

/// What a kernel does with one of its bindings, read off its SPIR-V by build.rs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It only reads.
    Read,
    /// It only writes.
    Write,
    /// It reads and writes.
    ReadWrite,
}

impl Access {
    /// True for [`Access::Write`] and [`Access::ReadWrite`].
    pub fn writes(self) -> bool {
        self != Access::Read
    }

    /// True for [`Access::Read`] and [`Access::ReadWrite`].
    pub fn reads(self) -> bool {
        self != Access::Write
    }
}

/// One call of one kernel. Made by the kernel's generated `dispatch` function, or by an operation that
/// chooses among kernels of one interface, which a test holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    /// The kernel.
    pub kernel: Kernel,
    /// Values of the kernel's specialization constants, ascending by constant id.
    pub specialization: Vec<u32>,
    /// The push constants' bytes, laid out as the kernel's SPIR-V says.
    pub push: Vec<u8>,
    /// One view a binding, ascending by binding number.
    pub views: Vec<View>,
    /// Workgroups in x, y and z, each between 1 and 65,535.
    pub groups: [u32; 3],
}

/// A list of dispatches with the meaning of running one after the other.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// As messages name it.
    pub name: String,
    /// In the order of their effect.
    pub dispatches: Vec<Dispatch>,
}

/// Names a recording of a [`Program`] by its index in [`Program::recordings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordingId(pub usize);

/// Everything an executor must know before step 0.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Each buffer's [`BufferId`] is its index here.
    pub buffers: Vec<BufferSpec>,
    /// Each recording's [`RecordingId`] is its index here.
    pub recordings: Vec<Recording>,
}

impl Program {
    /// Adds a buffer and returns a view of all of it.
    pub fn add_buffer(&mut self, name: &str, words: usize, group: Group, residence: Residence) -> View {
        assert!(words > 0, "buffer {name} is empty");
        assert!(self.buffers.iter().all(|b| b.name != name), "two buffers are named {name}");
        let buffer = BufferId(self.buffers.len() as u32);
        self.buffers.push(BufferSpec { name: name.to_owned(), words, group, residence });
        View { buffer, offset: 0, words }
    }

    /// Makes a buffer longer, before anything is loaded: for one whose length only recording tells.
    pub fn lengthen(&mut self, buffer: BufferId, words: usize) {
        let spec = &mut self.buffers[buffer.0 as usize];
        spec.words = spec.words.max(words);
    }

    /// Adds a recording.
    pub fn add_recording(&mut self, name: &str, dispatches: Vec<Dispatch>) -> RecordingId {
        self.recordings.push(Recording { name: name.to_owned(), dispatches });
        RecordingId(self.recordings.len() - 1)
    }

    /// What a buffer is.
    pub fn spec(&self, buffer: BufferId) -> &BufferSpec {
        &self.buffers[buffer.0 as usize]
    }

    /// The upload and readback buffers that a recording binds, ascending.
    pub fn ring_buffers(&self, recording: RecordingId) -> Vec<BufferId> {
        let dispatches = &self.recordings[recording.0].dispatches;
        let bound = dispatches.iter().flat_map(|dispatch| dispatch.views.iter().map(|view| view.buffer));
        let buffers: BTreeSet<BufferId> =
            bound.filter(|&buffer| self.spec(buffer).residence != Residence::Device).collect();
        buffers.into_iter().collect()
    }

    /// Bytes the program will take, ring copies included, by group in the groups' order.
    pub fn bytes_by_group(&self) -> BTreeMap<Group, u64> {
        let mut bytes = BTreeMap::new();
        for b in &self.buffers {
            let copies = if b.residence == Residence::Device { 1 } else { RING_SLOTS };
            *bytes.entry(b.group).or_insert(0) += (align_words(b.words) * 4 * copies) as u64;
        }
        bytes
    }
}

/// What a recording may know of the precision asked for and of the device it is made for. In `exact`
/// precision the device chooses between kernels and tile shapes that give the same bits; it never changes
/// a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traits {
    /// What the results are held to.
    pub precision: Precision,
    /// Workgroup shared memory and barriers are fast (a GPU). False on a CPU-type device, where
    /// one subgroup should compute a whole tile alone.
    pub fast_shared_memory: bool,
    /// Invocations of a subgroup, if they can hand each other values (shuffles), else 0.
    #[serde(default)]
    pub lanes: u32,
    /// Kernels may move two words at once, as a 64-bit integer.
    #[serde(default)]
    pub moves_pairs: bool,
    /// Kernels may be told the addresses of views, and load by them faster than through bindings.
    #[serde(default)]
    pub addresses: bool,
    /// The longest view that a dispatch can bind. What works on a whole arena is dispatched in pieces of
    /// at most this length, cut where no sum is.
    pub max_view_words: usize,
    /// Shared memory of one workgroup, in bytes.
    pub shared_memory_bytes: usize,
    /// The device's matrix units, if hlx has kernels for them.
    pub matrix_units: Option<MatrixUnits>,
    /// Those that take [`Factor::F16`], which may be the same.
    pub half_units: Option<MatrixUnits>,
}

impl Traits {
    /// What the CPU executor's programs are made for: `exact`, kernels that work alone, no limit.
    pub const PLAIN: Traits = Traits {
        precision: Precision::Exact,
        fast_shared_memory: false,
        lanes: 8,
        moves_pairs: true,
        addresses: false,
        max_view_words: usize::MAX,
        shared_memory_bytes: usize::MAX,
        matrix_units: None,
        half_units: None,
    };

    /// True if the exact recordings made for these traits run on a device of the others: whatever else
    /// differs between two devices changes which kernels are chosen, not which can run.
    pub fn run_on(&self, device: &Traits) -> bool {
        // The CPU executor has a twin of every exact kernel, whatever the kernel takes.
        let is_cpu_executor = Traits { precision: device.precision, ..Traits::PLAIN } == *device;
        let same_lanes = self.lanes == 0 || self.lanes == device.lanes;
        let pairs = !self.moves_pairs || device.moves_pairs;
        let addresses = !self.addresses || device.addresses;
        is_cpu_executor || self.fast_shared_memory || (same_lanes && pairs && addresses)
    }

    /// The same, for exact recordings that run on any device.
    pub fn for_any_device(self) -> Traits {
        Traits { lanes: 0, moves_pairs: false, addresses: false, ..self }
    }

    /// True if kernels are to move eight elements at a time wherever they can: on a CPU-type device what
    /// moving them costs goes by the words, not by their width.
    pub fn wants_eights(&self) -> bool {
        self.moves_pairs && !self.fast_shared_memory
    }

    /// Shared memory of one workgroup that kernels outside the exact contract are made for, in bytes.
    pub const FAST_SHARED_BYTES: usize = 32 << 10;

    /// True if kernels outside the exact contract are to be taken. Where shared memory is slow, none is
    /// faster than the exact ones; where there is little, their tiles do not fit.
    pub fn wants_fast_kernels(&self) -> bool {
        self.precision != Precision::Exact
            && self.fast_shared_memory
            && self.shared_memory_bytes >= Traits::FAST_SHARED_BYTES
    }
}

/// Units that multiply small matrices: 16-bit factors, 32-bit sums (`VK_KHR_cooperative_matrix`, a subgroup
/// at a time).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixUnits {
    /// The factors' type.
    pub factor: Factor,
    /// Rows, columns and terms of the matrices.
    pub side: u32,
    /// Invocations of a subgroup.
    pub subgroup_size: u32,
    /// Sums become factors, and rows are reduced, without memory (`VK_NV_cooperative_matrix2`).
    pub in_registers: bool,
    /// Whole workgroups may share a matrix (`VK_NV_cooperative_matrix2`).
    pub workgroup_scope: bool,
}

impl MatrixUnits {
    /// As most GPUs have them: what a program is made for where no device is asked.
    pub const fn usual(factor: Factor) -> MatrixUnits {
        MatrixUnits { factor, side: 16, subgroup_size: 32, in_registers: false, workgroup_scope: false }
    }
}

/// A 16-bit float type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Factor {
    /// 8 bits of exponent, 8 of significand: the range of f32.
    Bf16,
    /// 5 bits of exponent, 11 of significand.
    F16,
}

/// Names one submit, in the order they were made, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Runs a program. There are two: `vulkan::VulkanExecutor` and `cpu::CpuExecutor`.
///
/// Submits run in order. `submit` may return before the device has finished; it blocks only when
/// the recording's ring slot is still in use, that is, when submit n - [`RING_SLOTS`] of the same
/// recording has not finished.
pub trait Executor {
    /// Copies `words` into a [`Residence::Device`] buffer, after all earlier submits.
    fn write(&mut self, view: View, words: &[u32]) -> Result<()>;

    /// Copies a [`Residence::Device`] buffer out, after all earlier submits.
    fn read(&mut self, view: View) -> Result<Vec<u32>>;

    /// Starts one run of a recording. `uploads` gives the whole content of every
    /// [`Residence::Upload`] buffer that the recording reads.
    fn submit(&mut self, recording: RecordingId, uploads: &[(BufferId, &[u32])]) -> Result<Ticket>;

    /// Waits for a submit and copies out one of its [`Residence::Readback`] buffers. The ticket
    /// must be among the recording's last [`RING_SLOTS`] submits.
    fn fetch(&mut self, ticket: Ticket, buffer: BufferId) -> Result<Vec<u32>>;

    /// True if `submit` returns only when the work is done, so that running ahead gains nothing.
    fn is_synchronous(&self) -> bool;

    /// Waits for everything submitted so far.
    fn wait_idle(&mut self) -> Result<()>;

    /// Zero-fills every [`Residence::Device`] buffer, as loading did.
    fn clear(&mut self) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_run_where_there_is_what_they_take() {
        let plain = Traits { max_view_words: 1 << 20, ..Traits::PLAIN };
        let told = Traits { addresses: true, ..plain };
        assert!(told.run_on(&told) && plain.run_on(&told));
        assert!(!told.run_on(&plain));
        assert!(told.for_any_device().run_on(&plain));
        let narrow = Traits { lanes: 4, ..told };
        assert!(!narrow.run_on(&told) && narrow.run_on(&Traits::PLAIN), "the CPU executor runs everything");
    }

    #[test]
    fn pieces_follow_each_other_and_keep_units_whole() {
        let view = View { buffer: BufferId(3), offset: 128, words: 1000 };
        for (max_words, unit, lengths) in [
            (usize::MAX, 64, vec![1000]),
            (1000, 64, vec![960, 40]),
            (1024, 256, vec![1000]),
            (500, 64, vec![448, 448, 104]),
            (500, 256, vec![256, 256, 256, 232]),
            (10, 512, vec![512, 488]),
        ] {
            let pieces: Vec<(usize, View)> = view.pieces(max_words, unit).collect();
            let found: Vec<usize> = pieces.iter().map(|(_, piece)| piece.words).collect();
            assert_eq!(found, lengths, "at most {max_words}, units of {unit}");
            let mut next = 0;
            for (at, piece) in pieces {
                assert_eq!((at, piece.offset), (next, view.offset + next));
                next += piece.words;
            }
        }
    }
}
