#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#pragma hlx fast
// Splits f32 numbers into two 16-bit floats each, as products on matrix units take them: of every eight
// numbers the eight high parts, then the eight low parts, two to a word, the first one low.
layout(local_size_x = 256) in;

#include "halves.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { uint input_[]; };          // [count]
layout(std430, set = 0, binding = 1) readonly buffer Parts { uint parts[]; };           // [push.parts]
layout(std430, set = 0, binding = 2) writeonly buffer Largest { uint largest[]; };      // [1]
layout(std430, set = 0, binding = 3) writeonly buffer Output { uvec4 output_[]; };      // [2 * octs]
layout(std430, set = 0, binding = 0) readonly buffer InputQuads { uvec4 input_uvec4[]; };

layout(push_constant) uniform Push {
    uint count;
    uint parts; // at most MAX_PARTS
} push;

layout(constant_id = 0) const uint LOW_SHIFT = 11; // low parts are stored times 2^LOW_SHIFT

shared uint found;

// The 16 bits of the half that is nearest, to nearest even but for the smallest, whose distance is 2^-24. By
// hand: how a device converts is up to it.
uint half_bits(float x) {
    uint bits = floatBitsToUint(x);
    uint magnitude = bits & 0x7fffffff;
    uint rounded = magnitude < 0x38800000
        ? uint(uintBitsToFloat(magnitude) * 16777216.0 + 0.5)
        : (magnitude + 0xfff + (magnitude >> 13 & 1) >> 13) - (112 << 10);
    return bits >> 16 & 0x8000 | rounded;
}

// What a finite half stands for.
float half_value(uint bits) {
    uint magnitude = bits & 0x7fff;
    float x = magnitude < 0x400 ? float(magnitude) * uintBitsToFloat(0x33800000)
                                : uintBitsToFloat((magnitude << 13) + (112 << 23));
    return (bits & 0x8000) != 0 ? -x : x;
}

// The high part in the low half of a word, the low part in the other.
uint split(uint bits, float scale) {
    // Infinity stays infinity, and NaN NaN, so that it is seen that a step has failed.
    if ((bits & 0x7f800000) == 0x7f800000) {
        return bits >> 16 & 0x8000 | ((bits & 0x7fffff) != 0 ? 0x7e00 : 0x7c00);
    }
    float x = uintBitsToFloat(bits) * scale;
    uint high = half_bits(x);
    precise float low = (x - half_value(high)) * power_of_two(int(LOW_SHIFT));
    return high | half_bits(low) << 16;
}

uint input_at(uint i) {
    return i < push.count ? input_[i] : 0;
}

void main() {
    uint lane = gl_LocalInvocationIndex;
    if (lane == 0) {
        found = 0;
    }
    barrier();
    if (lane < push.parts) {
        atomicMax(found, parts[lane]);
    }
    barrier();
    if (gl_WorkGroupID.x + gl_WorkGroupID.y == 0 && lane == 0) {
        largest[0] = found;
    }
    float scale = power_of_two(shift_of(found));
    uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    // Less code is read sooner, which is what short tensors wait for.
    [[dont_unroll]] for (uint j = 0; j < 4; ++j) {
        uint i = (group * 4 + j) * gl_WorkGroupSize.x + lane;
        if (8 * i >= push.count) {
            break;
        }
        uvec4 read[2];
        if (8 * i + 8 <= push.count) {
            read = uvec4[2](input_uvec4[2 * i], input_uvec4[2 * i + 1]);
        } else {
            [[unroll]] for (uint e = 0; e < 8; ++e) {
                read[e / 4][e % 4] = input_at(8 * i + e);
            }
        }
        uvec4 high, low;
        [[unroll]] for (uint pair = 0; pair < 4; ++pair) {
            uint first = split(read[pair / 2][pair % 2 * 2], scale);
            uint second = split(read[pair / 2][pair % 2 * 2 + 1], scale);
            high[pair] = first & 0xffff | second << 16;
            low[pair] = first >> 16 | second & 0xffff0000;
        }
        output_[2 * i] = high;
        output_[2 * i + 1] = low;
    }
}
