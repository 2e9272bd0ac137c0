//! How many workgroups a kernel needs, and how a CPU twin shares its work among the cores.

use crate::recording::Traits;

/// Workgroups that Vulkan lets every device have in a direction.
pub const MAX_GROUPS: usize = 65_535;

/// Workgroups in y before x is used: well under that.
const MAX_GROUPS_Y: usize = 32_768;

/// Elements a CPU twin gives one task: enough to hide the cost of handing it to another core.
const TASK_ELEMENTS: usize = 16 * 1024;

/// Workgroups of a flat kernel with `local` invocations each, for `count` invocations in all.
pub fn flat_groups(count: usize, local: u32) -> [u32; 3] {
    spread(count.div_ceil(local as usize))
}

/// Fills y first, then x: along y a dispatch that takes long can be handed over in parts.
fn spread(groups: usize) -> [u32; 3] {
    assert!(groups > 0, "a dispatch of nothing");
    let x = groups.div_ceil(MAX_GROUPS_Y);
    assert!(x <= MAX_GROUPS, "{groups} workgroups exceed Vulkan's guaranteed grid");
    [x as u32, groups.div_ceil(x) as u32, 1]
}

/// How a row kernel's workgroup is laid out: see shaders/include/row.glsl.
pub struct RowLayout {
    /// Invocations that share a row.
    pub row_width: u32,
    /// Rows of a workgroup.
    pub rows_per_group: u32,
    /// Workgroups in x, y and z.
    pub groups: [u32; 3],
}

/// Elements of the longest row that one invocation works on alone: it goes over a row up to three times, and
/// software drivers end an invocation after 65,535 steps of its loops.
const LONGEST_ROW_ALONE: usize = 16_384;

/// The row kernels' layout for rows of `width` elements on a device: a row shared by 32 invocations where
/// shared memory is fast or a row is long, else one invocation a row, so that no barrier is needed.
pub fn row_layout(rows: usize, width: usize, traits: &Traits) -> RowLayout {
    let shares = traits.fast_shared_memory || width > LONGEST_ROW_ALONE;
    let (row_width, rows_per_group) = if shares { (32, 4) } else { (1, 8) };
    RowLayout { row_width, rows_per_group, groups: flat_groups(rows, rows_per_group) }
}

/// Rows of `width` elements that one CPU task takes.
pub fn rows_per_task(width: usize) -> usize {
    (TASK_ELEMENTS / width.max(1)).max(1)
}

/// Elements that one CPU task of a flat twin takes.
pub const fn elements_per_task() -> usize {
    TASK_ELEMENTS
}

/// Runs a block compiled for the widest vectors this processor has; the block lists the variables it uses
/// and their types. Widths never change a result: each element's own operations and their order stay as
/// written.
///
/// Not a closure, because only a method can be made to be inlined always, and what is not inlined into the
/// code for wide vectors is compiled for narrow ones.
macro_rules! vectorized {
    (|$($name:ident: $kind:ty),* $(,)?| $body:block) => {{
        struct Work<T>(T);
        impl pulp::WithSimd for Work<($($kind,)*)> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: pulp::Simd>(self, _: S) {
                let ($($name,)*) = self.0;
                $body
            }
        }
        pulp::Arch::new().dispatch(Work(($($name,)*)))
    }};
}
pub(super) use vectorized;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_every_invocation_and_stay_within_vulkans_limits() {
        for count in [1, 255, 256, 257, 8_388_608, 8_388_609, 130_000_000] {
            let [x, y, z] = flat_groups(count, 256);
            assert!(x as usize * y as usize * 256 >= count);
            assert!(x as usize <= MAX_GROUPS && y as usize <= MAX_GROUPS && z == 1);
        }
    }
}
