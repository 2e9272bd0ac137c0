//! The order of a recording's dispatches: as few waits between them as their data allow.
//!
//! Whoever records writes down what follows from what. A device runs side by side what stands between two
//! barriers, and a barrier stands where a dispatch needs the one before it; so dispatches are put into
//! levels, each one level after the last that it needs. Any such order has the same results, bit for bit.

use std::collections::HashMap;

use crate::recording::{Access, BufferId, Dispatch, View};

/// What a dispatch has done to a part of a buffer, and in which level.
struct Touch {
    view: View,
    writes: bool,
    level: usize,
}

/// The same dispatches, level by level.
pub fn in_levels(dispatches: Vec<Dispatch>) -> Vec<Dispatch> {
    let mut touched: HashMap<BufferId, Vec<Touch>> = HashMap::new();
    let mut levels: Vec<Vec<Dispatch>> = Vec::new();
    for dispatch in dispatches {
        let level = accesses(&dispatch).map(|(view, access)| free_level(&touched, &view, access)).max();
        let level = level.unwrap_or(0);
        for (view, access) in accesses(&dispatch) {
            let all = touched.entry(view.buffer).or_default();
            // What is written as a whole is waited for by this dispatch, and so by who comes after it.
            all.retain(|touch| !(access.writes() && view.contains(&touch.view)));
            all.push(Touch { view, writes: access.writes(), level });
        }
        if levels.len() <= level {
            levels.resize_with(level + 1, Vec::new);
        }
        levels[level].push(dispatch);
    }
    // Workgroups that take long begin first, so that short ones fill the processors that they leave idle.
    levels
        .iter_mut()
        .for_each(|level| level.sort_by_key(|dispatch| std::cmp::Reverse(words_a_group(dispatch))));
    levels.into_iter().flatten().collect()
}

fn accesses(dispatch: &Dispatch) -> impl Iterator<Item = (View, Access)> {
    dispatch.views.iter().zip(dispatch.kernel.bindings()).map(|(view, binding)| (*view, binding.access))
}

/// The first level in which a view may be touched.
fn free_level(touched: &HashMap<BufferId, Vec<Touch>>, view: &View, access: Access) -> usize {
    let all = touched.get(&view.buffer).into_iter().flatten();
    let needed = all.filter(|touch| (touch.writes || access.writes()) && touch.view.overlaps(view));
    needed.map(|touch| touch.level + 1).max().unwrap_or(0)
}

/// How much a workgroup has to do, by the words that it shares with the others.
fn words_a_group(dispatch: &Dispatch) -> usize {
    let words: usize = dispatch.views.iter().map(|view| view.words).sum();
    words / dispatch.groups.iter().map(|&count| count as usize).product::<usize>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::residual_add;
    use crate::recording::VIEW_ALIGNMENT_WORDS;

    const UNIT: usize = VIEW_ALIGNMENT_WORDS;

    fn part(offset: usize, words: usize) -> View {
        View { buffer: BufferId(0), offset: offset * UNIT, words: words * UNIT }
    }

    /// A dispatch that writes the first part and reads the second.
    fn add(output: View, input: View, groups: u32) -> Dispatch {
        let push = residual_add::Push { count: output.words as u32 };
        let bindings = residual_add::Bindings { stream: input, branch: input, output };
        residual_add::dispatch(push, Default::default(), bindings, [groups, 1, 1])
    }

    fn conflict(x: &Dispatch, y: &Dispatch) -> bool {
        accesses(x).any(|(view, access)| {
            let meets = |(other, other_access): (View, Access)| {
                (access.writes() || other_access.writes()) && view.overlaps(&other)
            };
            accesses(y).any(meets)
        })
    }

    #[test]
    fn what_waits_for_nothing_comes_first() {
        let one = add(part(1, 1), part(0, 1), 1);
        let needs_one = add(part(2, 1), part(1, 1), 1);
        let alone = add(part(4, 1), part(3, 1), 1);
        assert_eq!(in_levels(vec![one.clone(), needs_one.clone(), alone.clone()]), [one, alone, needs_one]);
    }

    #[test]
    fn long_workgroups_begin_first() {
        let short = add(part(8, 8), part(0, 8), 8);
        let long = add(part(24, 8), part(16, 8), 2);
        assert_eq!(in_levels(vec![short.clone(), long.clone()]), [long, short]);
    }

    #[test]
    fn what_conflicts_keeps_its_order() {
        let mut state = 7_u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut moved = 0;
        for _ in 0..200 {
            let mut random = || part(draw(24), 1 + draw(6));
            // The number of groups tells the dispatches apart.
            let given: Vec<Dispatch> = (1..40).map(|i| add(random(), random(), i)).collect();
            let ordered = in_levels(given.clone());
            let place = |d: &Dispatch| ordered.iter().position(|o| o == d).expect("nothing is lost");
            assert_eq!(ordered.len(), given.len());
            for (i, x) in given.iter().enumerate() {
                for y in &given[i + 1..] {
                    moved += usize::from(place(x) > place(y));
                    assert!(!conflict(x, y) || place(x) < place(y), "{:?} before {:?}", y.views, x.views);
                }
            }
        }
        assert!(moved > 0, "nothing was moved");
    }
}
