#version 460
#extension GL_GOOGLE_include_directive : require
// Adds one micro-batch's gradient to the running sum: sum = sum + addend, elementwise.
layout(local_size_x = 256) in;

#include "exact.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Addend { float addend[]; };  // [count]
layout(std430, set = 0, binding = 1) buffer Sum { float sum[]; };                 // [count]

layout(push_constant) uniform Push {
    uint count;
    uint first;  // not 0: sum = addend
} push;

void main() {
    uint i = flat_index();
    if (i >= push.count) return;
    sum[i] = snap(push.first != 0 ? addend[i] : sum[i] + addend[i]);
}
