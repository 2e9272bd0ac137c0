// Rows of tensors kept in 16 bits: a subgroup takes one at a time, each invocation every so many elements of it,
// in fours.
#extension GL_KHR_shader_subgroup_basic : require
#include "narrow.glsl"

layout(local_size_x = 256) in;
layout(constant_id = 1) const uint QUADS_HERE = 6;  // fours of an invocation, the last ones past the row's end

uint first_row() {
    return gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID;
}

uint rows_at_once() {
    return gl_NumWorkGroups.x * gl_NumSubgroups;
}

uint quad_here(uint i) {
    return i * gl_SubgroupSize + gl_SubgroupInvocationID;
}
