#version 460
#extension GL_GOOGLE_include_directive : require
// The tanh form of GELU (Hendrycks & Gimpel 2016), elementwise.
layout(local_size_x = 256) in;

#include "exact.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };     // [count]
layout(std430, set = 0, binding = 1) writeonly buffer Output { float output_[]; };  // [count]

layout(push_constant) uniform Push {
    uint count;
} push;

void main() {
    uint i = flat_index();
    if (i >= push.count) return;
    output_[i] = snap(gelu(input_[i]));
}
