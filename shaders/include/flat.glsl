// The index of an invocation in a flat kernel, whose workgroups fill y up to a limit and then x.
// Twin of ops::grid::flat_groups.

uint flat_index() {
    uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    return group * gl_WorkGroupSize.x + gl_LocalInvocationIndex;
}
