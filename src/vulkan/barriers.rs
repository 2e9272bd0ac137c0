//! Decides before which dispatches of a list a memory barrier must stand: pure, without Vulkan.
//!
//! Dispatches between two barriers may run at the same time and in any order, so no two of them may
//! touch the same words unless both only read. The list is never reordered: taking each group as long as
//! it can be gives the fewest barriers for the given order.

use crate::recording::{Access, BufferId, View};

/// What one dispatch does to one range of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touch {
    pub view: View,
    pub access: Access,
}

impl Touch {
    /// Read after write, write after read, write after write.
    fn conflicts(&self, earlier: &Touch) -> bool {
        (self.access.writes() || earlier.access.writes()) && self.view.overlaps(&earlier.view)
    }
}

/// For each dispatch, whether a barrier must stand before it. `touches` yields each dispatch's bindings.
/// The first dispatch never needs one: what ran before the list is ordered by the barrier that every
/// command buffer begins with.
pub(super) fn barriers_before<I>(touches: I) -> Vec<bool>
where
    I: IntoIterator<Item = Vec<Touch>>,
{
    let mut group = Group::default();
    touches
        .into_iter()
        .map(|dispatch| {
            let barrier = dispatch.iter().any(|touch| group.conflicts(touch));
            if barrier {
                group.clear();
            }
            dispatch.into_iter().for_each(|touch| group.add(touch));
            barrier
        })
        .collect()
}

/// What the dispatches since the last barrier touch, by buffer.
#[derive(Default)]
struct Group {
    touched: std::collections::HashMap<BufferId, Vec<Touch>>,
}

impl Group {
    fn conflicts(&self, touch: &Touch) -> bool {
        self.touched
            .get(&touch.view.buffer)
            .is_some_and(|all| all.iter().any(|earlier| touch.conflicts(earlier)))
    }

    fn add(&mut self, touch: Touch) {
        let touched = self.touched.entry(touch.view.buffer).or_default();
        // Many dispatches read the same view (the parameters, say): once is enough.
        if !touched.contains(&touch) {
            touched.push(touch);
        }
    }

    fn clear(&mut self) {
        self.touched.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(access: Access, buffer: u32, offset: usize, words: usize) -> Touch {
        Touch { view: View { buffer: BufferId(buffer), offset, words }, access }
    }

    fn read(buffer: u32, offset: usize, words: usize) -> Touch {
        touch(Access::Read, buffer, offset, words)
    }

    fn write(buffer: u32, offset: usize, words: usize) -> Touch {
        touch(Access::Write, buffer, offset, words)
    }

    fn update(buffer: u32, offset: usize, words: usize) -> Touch {
        touch(Access::ReadWrite, buffer, offset, words)
    }

    #[test]
    fn nothing_needs_nothing() {
        assert_eq!(barriers_before([]), Vec::<bool>::new());
        assert_eq!(barriers_before([vec![]]), [false]);
        assert_eq!(barriers_before([vec![update(0, 0, 64)]]), [false]);
    }

    #[test]
    fn a_read_after_a_write_waits() {
        assert_eq!(barriers_before([vec![write(0, 0, 64)], vec![read(0, 0, 64)]]), [false, true]);
        assert_eq!(barriers_before([vec![update(0, 0, 64)], vec![read(0, 0, 64)]]), [false, true]);
    }

    #[test]
    fn a_write_after_a_read_waits() {
        assert_eq!(barriers_before([vec![read(0, 0, 64)], vec![write(0, 0, 64)]]), [false, true]);
        assert_eq!(barriers_before([vec![read(0, 0, 64)], vec![update(0, 0, 64)]]), [false, true]);
    }

    #[test]
    fn a_write_after_a_write_waits() {
        assert_eq!(barriers_before([vec![write(0, 0, 64)], vec![write(0, 0, 64)]]), [false, true]);
    }

    #[test]
    fn reads_share_a_group() {
        let reads = || vec![read(0, 0, 64), write(1, 0, 64)];
        assert_eq!(barriers_before([reads(), vec![read(0, 0, 64), write(2, 0, 64)]]), [false, false]);
    }

    #[test]
    fn parts_of_one_buffer_are_independent_if_disjoint() {
        assert_eq!(barriers_before([vec![write(0, 0, 64)], vec![write(0, 64, 64)]]), [false, false]);
        assert_eq!(barriers_before([vec![write(0, 0, 65)], vec![write(0, 64, 64)]]), [false, true]);
        assert_eq!(barriers_before([vec![write(0, 128, 64)], vec![read(0, 0, 129)]]), [false, true]);
        // One lies wholly inside the other.
        assert_eq!(barriers_before([vec![write(0, 64, 1)], vec![read(0, 0, 1024)]]), [false, true]);
        assert_eq!(barriers_before([vec![read(0, 0, 1024)], vec![write(0, 64, 1)]]), [false, true]);
    }

    #[test]
    fn a_barrier_clears_everything_before_it() {
        let list = [
            vec![write(0, 0, 64)],
            vec![write(1, 0, 64)],
            vec![read(0, 0, 64), write(2, 0, 64)], // waits for dispatch 0, and so for dispatch 1 too
            vec![read(1, 0, 64), write(3, 0, 64)], // covered by the barrier before
            vec![read(2, 0, 64), write(1, 0, 64)], // waits for dispatches 2 and 3
        ];
        assert_eq!(barriers_before(list), [false, false, true, false, true]);
    }

    #[test]
    fn a_conflict_anywhere_in_the_group_counts() {
        let list =
            [vec![write(0, 0, 64)], vec![write(1, 0, 64)], vec![write(2, 0, 64)], vec![read(0, 0, 64)]];
        assert_eq!(barriers_before(list), [false, false, false, true]);
    }

    #[test]
    fn a_dispatch_does_not_wait_for_itself() {
        assert_eq!(barriers_before([vec![read(0, 0, 64), write(0, 64, 64)]]), [false]);
    }

    #[test]
    fn every_pair_in_a_group_is_free_of_hazards() {
        // A small generator, so that the property is tried on many lists and failures repeat.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..500 {
            let list: Vec<Vec<Touch>> = (0..20)
                .map(|_| {
                    (0..1 + draw(3))
                        .map(|_| {
                            let access = [Access::Read, Access::Write, Access::ReadWrite][draw(3) as usize];
                            touch(access, draw(3) as u32, 64 * draw(8) as usize, 1 + draw(200) as usize)
                        })
                        .collect()
                })
                .collect();
            let barriers = barriers_before(list.clone());
            let mut start = 0;
            for i in 0..list.len() {
                let hazard = |from: usize| {
                    list[from..i].iter().flatten().any(|a| list[i].iter().any(|b| b.conflicts(a)))
                };
                // A barrier stands exactly where the group before it conflicts: never missing, never idle.
                assert_eq!(barriers[i], hazard(start), "dispatch {i} of {list:?}");
                if barriers[i] {
                    start = i;
                }
            }
        }
    }
}
