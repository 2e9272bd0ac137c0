// The matrix product of either pass, of whole tiles, for CPU-type devices that load by address as fast as
// plain code: C = A * B + bias. Newer software Vulkan makes one scalar load of an address that is the same for
// all, and the processor hands its value to every lane; through a binding it checks each index first.
//
// A subgroup computes a tile alone, in registers. Rows are whole tiles, columns whole fours of every
// invocation, terms whole steps, and rows of B and C start at multiples of four elements.
//
// Every loop ends at its foot: where the condition stands at the head, software Vulkan goes once more through
// the body with nobody in it, and a load by address is made all the same.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_buffer_reference : require
#extension GL_ARB_gpu_shader_int64 : require
#include "exact.glsl"
#include "eights.glsl"

layout(std430, set = 0, binding = 0) readonly buffer A { float a[]; };       // [m, k], or [k, m] if TRANS_A
layout(std430, set = 0, binding = 1) readonly buffer B { float b[]; };       // [k, n], or [n, k] if TRANS_B
layout(std430, set = 0, binding = 2) writeonly buffer C { float c[]; };      // [m, n]
layout(std430, set = 0, binding = 3) readonly buffer Bias { float bias[]; }; // [n]
layout(std430, set = 0, binding = 2) writeonly buffer CQuads { u64vec2 c_u64vec2[]; };

#define BIAS(column) (push.use_bias != 0 ? bias[column] : 0.0)
#define ADDRESSES uint64_t a_address; uint64_t b_address;
#include "gemm_push.glsl"

layout(constant_id = 5) const uint ROWS = 64; // of a tile
layout(local_size_x = 8, local_size_x_id = 8) in;
layout(constant_id = 9) const uint ONE_BLOCK = 0; // the terms of an element are of one block

const uint STEP = 4; // terms that are loaded at once

layout(buffer_reference, std430, buffer_reference_align = 4) restrict readonly buffer One { float value; };
layout(buffer_reference, std430, buffer_reference_align = 16) restrict readonly buffer Quad { u64vec2 value; };

// In bytes.
uint64_t left_at; // A's element of the tile's first row, term 0
uint64_t left_row;
uint64_t left_term;
uint64_t right_at; // B's element of the invocation's first column, term 0
uint64_t right_row; // a stored row's length

void find_places(uint row, uint column) {
    const uint64_t ELEMENT = 4;
    left_row = ELEMENT * (TRANS_A != 0 ? 1 : push.lda);
    left_term = ELEMENT * (TRANS_A != 0 ? push.lda : 1);
    left_at = push.a_address + ELEMENT * batch_start(push.a_first, push.a_outer, push.a_inner) + row * left_row;
    right_row = ELEMENT * push.ldb;
    right_at = push.b_address + ELEMENT * batch_start(push.b_first, push.b_outer, push.b_inner)
        + column * (TRANS_B != 0 ? right_row : ELEMENT);
}

// Four elements side by side.
vec4 load(uint64_t at) {
    u64vec2 words = Quad(at).value;
    return vec4(uintBitsToFloat(unpackUint2x32(words.x)), uintBitsToFloat(unpackUint2x32(words.y)));
}

// Terms p to p + STEP of four columns.
void load_right(uint p, out vec4 right[STEP]) {
    if (TRANS_B == 0) {
        [[unroll]] for (uint q = 0; q < STEP; ++q) {
            right[q] = load(right_at + (p + q) * right_row);
        }
        return;
    }
    [[unroll]] for (uint column = 0; column < 4; ++column) {
        vec4 terms = load(right_at + column * right_row + 4 * p);
        [[unroll]] for (uint q = 0; q < STEP; ++q) {
            right[q][column] = terms[q];
        }
    }
}

uint touched = 0;

// Reads a word of each line of B that terms p to p + STEP are in, so that by their turn they are in the nearest
// cache. In the gradients of weights, where both factors' terms lie far apart, they would be in none.
void touch_right(uint p) {
    const uint LINE = 64; // bytes
    uint64_t first = push.b_address + uint64_t(4) * batch_start(push.b_first, push.b_outer, push.b_inner)
        + gl_WorkGroupID.y * (16 * gl_WorkGroupSize.x);
    [[unroll]] for (uint q = 0; q < STEP; ++q) {
        [[unroll]] for (uint at = 0; at < 16 * gl_WorkGroupSize.x; at += LINE) {
            touched |= floatBitsToUint(One(first + (p + q) * right_row + at).value);
        }
    }
}

// Adds terms p to `end`, of which there are some.
void add_terms(uint p, uint end, inout vec4 sum[ROWS]) {
    do {
        if (TRANS_A != 0 && TRANS_B == 0) {
            touch_right(min(p + STEP, end - STEP));
        }
        vec4 right[STEP];
        load_right(p, right);
        uint64_t left = left_at + p * left_term;
        [[unroll]] for (uint i = 0; i < ROWS; ++i) {
            [[unroll]] for (uint q = 0; q < STEP; ++q) {
                sum[i] += One(left + i * left_row + q * left_term).value * right[q];
            }
        }
        p += STEP;
    } while (p < end);
}

void main() {
    // Workgroups that follow each other go down the same columns of B, which so stay in a cache.
    uint row = gl_WorkGroupID.x * ROWS;
    uint first_column = gl_WorkGroupID.y * gl_WorkGroupSize.x * 4;
    uint column = first_column + gl_LocalInvocationID.x * 4;
    // A driver that masks instead of branching goes on with nobody in it: what follows stays inside all the same,
    // as the tile is whole and the terms begin in range.
    if (is_unwanted(row + ROWS, first_column)) {
        return;
    }
    find_places(row, column);
    uint c_at = batch_start(push.c_first, push.c_outer, push.c_inner) + row * push.ldc + column;
    uint ldc = push.ldc;
    vec4 added = vec4(BIAS(column), BIAS(column + 1), BIAS(column + 2), BIAS(column + 3));
    uint first = first_term(row);
    uint end = end_of_terms(row + ROWS);
    vec4 total[ROWS];
    [[unroll]] for (uint i = 0; i < ROWS; ++i) {
        total[i] = vec4(0.0);
    }
    if (ONE_BLOCK != 0) {
        // The total of one sum that is not -0 is that sum.
        add_terms(first, end, total);
    } else {
        uint block = first / K_BLOCK * K_BLOCK;
        do {
            vec4 sum[ROWS];
            [[unroll]] for (uint i = 0; i < ROWS; ++i) {
                sum[i] = vec4(0.0);
            }
            add_terms(max(block, first), min(block + K_BLOCK, end), sum);
            [[unroll]] for (uint i = 0; i < ROWS; ++i) {
                total[i] += sum[i];
            }
            block += K_BLOCK;
        } while (block < end);
    }
    [[unroll]] for (uint i = 0; i < ROWS; ++i) {
        vec4 x = total[i] + added;
        x = vec4(snap(x.x), snap(x.y), snap(x.z), snap(x.w));
        c_u64vec2[(c_at + i * ldc) / 4] = u64vec2(pair(x.x, x.y), pair(x.z, x.w));
    }
    // Never: it is there so that what was touched counts as needed.
    if (push.m == 0) {
        c[0] = uintBitsToFloat(touched);
    }
}
