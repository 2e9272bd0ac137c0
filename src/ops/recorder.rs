//! Collects the dispatches of a recording, and lends them room for what they leave in between.

use crate::ops::eights;
use crate::ops::gemm::halves::{self, HalvesPlan};
use crate::ops::gemm::units::{self, UnitPlan};
use crate::ops::gemm::{Gemm, Matrix, Tunable, Tuning, Way};
use crate::ops::levels::in_levels;
use crate::ops::pack::{pack, packed_words};
use crate::ops::split::{split, split_words};
use crate::recording::{
    BufferId, Dispatch, MatrixUnits, Program, RecordingId, Traits, VIEW_ALIGNMENT_WORDS, View, align_words,
};

/// Words that room is lent from in turns, so that neighbours do not wait for each other; more for a product
/// that takes more.
const ROOM_WORDS: usize = 1 << 25;

/// Collects dispatches in the order they are to take effect.
pub struct Recorder {
    /// What may be known of the device.
    pub traits: Traits,
    /// What was recorded so far.
    pub dispatches: Vec<Dispatch>,
    /// Every product that was asked for and may be tuned, its factors marked as packed if they are multiplied
    /// so.
    pub products: Vec<Tunable>,
    /// How products are computed where not by the estimates.
    tuning: Tuning,
    room: Option<Room>,
    /// What lies packed or split in the room: what it was made from, and where it is.
    packed: Vec<(View, View)>,
    /// Many matrices that lie packed in a buffer of their own, all of it: the same.
    whole: Option<(View, View)>,
}

/// A buffer that partial sums and packed factors of products are put in, one after the other and from the
/// start again.
struct Room {
    buffer: BufferId,
    next: usize,
    /// How long the buffer must be.
    words: usize,
}

impl Room {
    /// Makes sure that so many words can be lent one after the other.
    fn prepare(&mut self, words: usize) {
        if self.next + words > ROOM_WORDS {
            self.next = 0;
        }
    }

    fn lend(&mut self, words: usize) -> View {
        let view = View { buffer: self.buffer, offset: self.next, words };
        self.next += align_words(words);
        self.words = self.words.max(self.next);
        view
    }
}

impl Recorder {
    /// An empty recorder. Without a buffer to lend room from, no product is split and no factor packed.
    pub fn new(traits: Traits, room: Option<BufferId>) -> Recorder {
        let room = room.map(|buffer| Room { buffer, next: 0, words: 1 });
        Recorder {
            traits,
            dispatches: Vec::new(),
            products: Vec::new(),
            tuning: Tuning::default(),
            room,
            packed: Vec::new(),
            whole: None,
        }
    }

    /// The same, with products computed as a tuning says.
    pub fn tuned(self, tuning: Tuning) -> Recorder {
        Recorder { tuning, ..self }
    }

    /// Adds a dispatch after those before, or the one that does the same faster on this device.
    pub fn add(&mut self, dispatch: Dispatch) {
        let dispatch = eights::in_place_of(dispatch, &self.traits);
        // What is written over is no longer what was packed.
        let bindings = dispatch.kernel.bindings().iter().zip(&dispatch.views);
        for (_, written) in bindings.filter(|(binding, _)| binding.access.writes()) {
            self.packed.retain(|(source, _)| !source.overlaps(written));
            self.whole = self.whole.filter(|(source, _)| !source.overlaps(written));
        }
        self.dispatches.push(dispatch);
    }

    /// Packs the matrices of an arena, so that no product of theirs has to; `packed` has [`packed_words`].
    pub fn pack_arena(&mut self, arena: View, packed: View, units: MatrixUnits) {
        for (at, piece) in arena.pieces(self.traits.max_view_words, 2 * VIEW_ALIGNMENT_WORDS) {
            let target = packed.part(packed_words(at), packed_words(piece.words));
            pack(self, units.factor, false, piece, target);
        }
        self.whole = Some((arena, packed));
    }

    /// The same factor where it lies packed in a whole arena, if it does.
    fn in_arena(&self, factor: Matrix) -> Matrix {
        let in_eights = factor.layout.ld.is_multiple_of(8);
        let whole = self.whole.filter(|(arena, _)| in_eights && arena.contains(&factor.view));
        let Some((arena, packed)) = whole else { return factor };
        let from = packed_words(factor.view.offset - arena.offset);
        let begins = from / VIEW_ALIGNMENT_WORDS * VIEW_ALIGNMENT_WORDS;
        let view = packed.part(begins, from - begins + packed_words(factor.view.words));
        Matrix { view, ..factor.at(factor.layout.first + 2 * (from - begins)) }.packed()
    }

    /// Adds a matrix product, in two dispatches where that keeps the device busier.
    pub fn multiply(&mut self, gemm: &Gemm) {
        let gemm = &Gemm { a: self.in_arena(gemm.a), b: self.in_arena(gemm.b), ..*gemm };
        let has_room = self.room.is_some();
        let packing = units::wanted(&self.traits).filter(|_| has_room && units::worth_packing(gemm));
        let asked = match packing {
            Some(_) => Gemm { a: gemm.a.packed(), b: gemm.b.packed(), ..*gemm },
            None => *gemm,
        };
        let tunable = Tunable::of(&asked, &self.traits, has_room);
        self.products.extend(tunable);
        let way = match &tunable {
            Some(product) => self.tuning.way(product, &self.traits),
            None => Way::best(&asked, &self.traits, false),
        };
        match (way, packing, halves::wanted(&self.traits)) {
            (Way::Units(plan), Some(units), _) => self.multiply_packed(gemm, units, &plan),
            (Way::Halves(plan), _, Some(units)) => self.multiply_split(gemm, units, &plan),
            _ => {
                let words = way.partial_words(gemm);
                let partials = (words > 0).then(|| self.take_partials(words));
                let dispatches = way.record(gemm, &self.traits, None, partials);
                dispatches.into_iter().for_each(|dispatch| self.add(dispatch));
            }
        }
    }

    /// Adds what was recorded to a program, in an order that lets a device run much of it side by side.
    pub fn finish(self, program: &mut Program, name: &str) -> RecordingId {
        if let Some(room) = self.room {
            program.lengthen(room.buffer, room.words);
        }
        program.add_recording(name, in_levels(self.dispatches))
    }

    /// The next so many words of the prepared room; what was packed there is gone.
    fn take(&mut self, words: usize) -> View {
        let view = self.room.as_mut().expect("a recorder that lends room").lend(words);
        self.packed.retain(|(_, packed)| !packed.overlaps(&view));
        view
    }

    /// Room for partial sums alone.
    fn take_partials(&mut self, words: usize) -> View {
        self.room.as_mut().expect("a recorder that lends room").prepare(align_words(words));
        self.take(words)
    }

    fn multiply_packed(&mut self, gemm: &Gemm, units: MatrixUnits, plan: &UnitPlan) {
        let partial_words = plan.partial_words(&gemm.problem());
        let source = |factor: &Matrix| (!factor.packed).then_some(factor.view);
        let needed = |factor| source(factor).map(|view| (view, packed_words(view.words)));
        self.make_room([needed(&gemm.a), needed(&gemm.b)], partial_words);
        let (a, b) = (self.packed(gemm.a, units), self.packed(gemm.b, units));
        let partials = (partial_words > 0).then(|| self.take(partial_words));
        let dispatches = units::record(&Gemm { a, b, ..*gemm }, units, plan, partials);
        dispatches.into_iter().for_each(|dispatch| self.add(dispatch));
    }

    /// Adds a matrix product of factors that are split first, unless they lie split in the room.
    pub(super) fn multiply_split(&mut self, gemm: &Gemm, units: MatrixUnits, plan: &HalvesPlan) {
        let partial_words = plan.partial_words(&gemm.problem());
        let factors = [gemm.a.view, gemm.b.view];
        self.make_room(factors.map(|factor| Some((factor, split_words(factor.words)))), partial_words);
        let factors = factors.map(|factor| self.split(factor, plan.tile.low_shift));
        let partials = (partial_words > 0).then(|| self.take(partial_words));
        let dispatches = halves::record(gemm, factors, units, plan, partials);
        dispatches.into_iter().for_each(|dispatch| self.add(dispatch));
    }

    /// Makes sure that taking what these sources, in so many words each, and so many words still need drops
    /// none of them: where it would, the room is used from its start.
    fn make_room(&mut self, [a, b]: [Option<(View, usize)>; 2], partial_words: usize) {
        let sources: Vec<(View, usize)> = a.into_iter().chain(b.filter(|_| a != b)).collect();
        loop {
            let missing = sources.iter().filter(|(source, _)| self.place(source).is_none());
            let words =
                missing.map(|(_, words)| align_words(*words)).sum::<usize>() + align_words(partial_words);
            let room = self.room.as_mut().expect("a recorder that lends room");
            room.prepare(words);
            let lent = View { buffer: room.buffer, offset: room.next, words: words.max(1) };
            let before = self.packed.len();
            self.packed.retain(|(_, packed)| !packed.overlaps(&lent));
            if self.packed.len() == before {
                return;
            }
        }
    }

    /// Where what lies in a view lies packed or split.
    fn place(&self, source: &View) -> Option<View> {
        self.packed.iter().find(|(from, _)| from == source).map(|(_, packed)| *packed)
    }

    /// What lies in a view, split; by dispatches of its own unless it is already.
    fn split(&mut self, source: View, low_shift: u32) -> View {
        self.place(&source).unwrap_or_else(|| {
            let view = self.take(split_words(source.words));
            split(self, source, view, low_shift);
            self.packed.push((source, view));
            view
        })
    }

    /// The same factor, packed; by a dispatch of its own unless it is already.
    fn packed(&mut self, factor: Matrix, units: MatrixUnits) -> Matrix {
        if factor.packed {
            return factor;
        }
        let view = self.place(&factor.view).unwrap_or_else(|| {
            let view = self.take(packed_words(factor.view.words));
            pack(self, units.factor, factor.gradient, factor.view, view);
            self.packed.push((factor.view, view));
            view
        });
        Matrix { view, ..factor }.packed()
    }
}
