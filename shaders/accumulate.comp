// Adds one micro-batch's gradient to the running sum; the first one starts it.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "exact.glsl"

layout(local_size_x = 256) in;

layout(push_constant) uniform Push {
    uint count; // elements
    uint first; // not 0: sum = addend
} push;

layout(std430, set = 0, binding = 0) readonly buffer Addend { float addend[]; }; // [count]
layout(std430, set = 0, binding = 1) buffer Sum { float sum[]; };                // [count]

void main() {
    uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    uint i = group * gl_WorkGroupSize.x + gl_LocalInvocationIndex;
    if (i >= push.count) {
        return;
    }
    sum[i] = snap(push.first != 0 ? addend[i] : sum[i] + addend[i]);
}
