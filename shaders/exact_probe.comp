#version 460
#extension GL_GOOGLE_include_directive : require
// Applies one function of the exact arithmetic to every input word: what a device is admitted by, and what
// tests hold to the CPU over every input. The functions' numbers are their places in ops::exact_probe.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "philox.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { uint input_[]; };     // [count]
layout(std430, set = 0, binding = 1) writeonly buffer Output { uint output_[]; };  // [count]

layout(push_constant) uniform Push {
    uint count;
    uint function;
} push;

float argument(uint i) {
    return uintBitsToFloat(input_[i % push.count]);
}

float function_of(uint i) {
    float x = argument(i);
    switch (push.function) {
        case 0: return snap(x);
        case 1: return snap_moment(x);
        case 2: return recip(x);
        case 3: return rsqrt(x);
        case 4: return sqrt_exact(x);
        case 5: return exp_exact(x);
        case 6: return log_exact(x);
        case 7: return sigmoid(x);
        case 8: return gelu(x);
        case 9: return gelu_grad(x);
        case 10: return tanh_exact(x);
        // Fused, this rounds once; reassociated, it rounds elsewhere.
        default: return x * argument(i + 1) + argument(i + 2) + argument(i + 3);
    }
}

const uint RANDOM = 12;

void main() {
    uint i = flat_index();
    if (i >= push.count) return;
    if (push.function == RANDOM) {
        output_[i] = random_u32(uvec2(input_[i], 1), 2, uvec2(3, 4), i);
    } else {
        output_[i] = floatBitsToUint(function_of(i));
    }
}
