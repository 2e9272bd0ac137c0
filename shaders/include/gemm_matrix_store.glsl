// How the sums of a subgroup become elements of C: by way of shared memory, a row of two matrices at a time, so
// that an invocation writes eight or four elements side by side.

//
// What else is done to an element on its way, the including shader says:
//   GELU           C is followed by GELU, whose result is written too
//   GELU_BACKWARD  C is the gradient of GELU's result: written is that of what went into it, the sums of its
//                  columns over a subgroup's rows, and GELU's result again if AGAIN
// Both with packed results of rows of eights.

layout(std430, set = 0, binding = 3) readonly buffer BiasQuads { vec4 bias_vec4[]; };

#ifdef GELU
#include "gelu_fast.glsl"
layout(std430, set = 0, binding = 4) writeonly buffer Act { uint act[]; }; // [m, n / 2]
layout(std430, set = 0, binding = 4) writeonly buffer ActOcts { uvec4 act_uvec4[]; };
#endif
#ifdef GELU_BACKWARD
#extension GL_KHR_shader_subgroup_shuffle : require
#include "gelu_fast.glsl"
layout(std430, set = 0, binding = 4) readonly buffer Pre { uint pre[]; };     // [m, n / 2]: what GELU was given
layout(std430, set = 0, binding = 5) writeonly buffer Act { uint act[]; };    // [m, n / 2]
layout(std430, set = 0, binding = 6) writeonly buffer Sums { float sums[]; }; // [subgroups down, n]
layout(std430, set = 0, binding = 4) readonly buffer PreOcts { uvec4 pre_uvec4[]; };
layout(std430, set = 0, binding = 5) writeonly buffer ActOcts { uvec4 act_uvec4[]; };
layout(std430, set = 0, binding = 6) writeonly buffer SumQuads { vec4 sums_vec4[]; };

layout(constant_id = 20) const uint AGAIN = 0;
#endif

const uint WIDE = C_PACKED != 0 ? 8 : 4; // elements that are written at once
const uint WIDES = STAGED_COLUMNS / WIDE; // of a staged row: no more than a subgroup has invocations

// Rounds in which a subgroup writes what it has staged, where subgroups are known to be of one size.
const uint ROUNDS = SPARE != 0 ? 1 : SIDE * WIDES / (INVOCATIONS / SUBGROUPS);
const uint MOST_ROUNDS = 4;
const bool UNROLLED = SPARE == 0 && ROUNDS <= MOST_ROUNDS;

// Eight elements of a row, of which the last four count for nothing if C is not packed.
struct Eight {
    vec4 low;
    vec4 high;
};

// Orders what a subgroup puts into shared memory and what it takes from there.
void exchange() {
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared, gl_SemanticsAcquireRelease);
}

// Puts a matrix of sums into the subgroup's staging, `across` matrices from its left end.
void stage(SUM sum, uint across) {
    uint at = gl_SubgroupID * (SIDE * STAGED_PITCH) + across * (SIDE / 4);
    coopMatStore(sum, tile, at, STAGED_PITCH, ROW_MAJOR);
}

vec4 quad_of_bias(bool inside, uint column) {
    if (push.use_bias == 0) {
        return vec4(0.0);
    }
    if (inside || column + 4 <= push.n) {
        return bias_vec4[column / 4];
    }
    vec4 x = vec4(0.0);
    [[unroll]] for (uint e = 0; e < 4; ++e) {
        if (column + e < push.n) {
            x[e] = bias[column + e];
        }
    }
    return x;
}

// What is added to the elements that this invocation writes, all of the same columns, from this one on.
Eight eight_of_bias(bool inside, uint column) {
    return Eight(quad_of_bias(inside, column), C_PACKED != 0 ? quad_of_bias(inside, column + 4) : vec4(0.0));
}

// Elements of C from what is staged of them. Rounded to 16 bits, tiny ones need no snapping, and gemm_finish
// finishes what is summed block by block.
vec4 finished_quad(uint at, vec4 bias) {
    vec4 x = uintBitsToFloat(tile[at]);
    x = (SCALED != 0 ? x * push.c_scale : x) + bias;
    float snapped = C_PACKED != 0 || push.causal == CAUSAL_BLOCKS ? 0.0 : SNAP_BELOW;
    return mix(x, vec4(0.0), lessThan(abs(x), vec4(snapped)));
}

// Writes eight elements, or four, of which an edge cuts some off. A packed row has an even number of columns.
void store_cut(Eight x, uint row, uint column, uint at) {
    if (row >= push.m) {
        return;
    }
    if (C_PACKED != 0) {
        uvec4 halves = rounded(x.low, x.high, push.out_scale);
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            if (column + 2 * e < push.n) {
                c_uint[at / 2 + e] = halves[e];
            }
        }
    } else {
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            if (column + e < push.n) {
                c[at + e] = x.low[e];
            }
        }
    }
}

// Writes a line's elements from this column on; `from` is their place in the staging.
void store_line(bool inside, uint from, uint row, uint column, uint at, Eight added, uvec4 given, inout Eight total) {
    Eight x;
    x.low = finished_quad(from, added.low);
    x.high = C_PACKED != 0 ? finished_quad(from + 1, added.high) : vec4(0.0);
    bool whole = inside || (WIDE_C != 0 && row < push.m && column + WIDE <= push.n);
#if defined(GELU)
    if (whole) {
        uvec4 halves = rounded(x.low, x.high, push.out_scale);
        c_uvec4[at / 8] = halves;
        act_uvec4[at / 8] = rounded(gelu_fast(widened(halves.xy)), gelu_fast(widened(halves.zw)), 1.0);
    }
#elif defined(GELU_BACKWARD)
    if (whole) {
        Eight u = Eight(widened(given.xy), widened(given.zw));
        Eight s = Eight(sigmoid_of_gelu(u.low), sigmoid_of_gelu(u.high));
        x.low *= gelu_grad_of(u.low, s.low);
        x.high *= gelu_grad_of(u.high, s.high);
        c_uvec4[at / 8] = rounded(x.low, x.high, push.out_scale);
        if (AGAIN != 0) {
            act_uvec4[at / 8] = rounded(u.low * s.low, u.high * s.high, 1.0);
        }
        total = Eight(total.low + x.low, total.high + x.high);
    }
#else
    if (!whole) {
        store_cut(x, row, column, at);
    } else if (C_PACKED != 0) {
        c_uvec4[at / 8] = rounded(x.low, x.high, push.out_scale);
    } else {
        c_vec4[at / 4] = x.low;
    }
#endif
}

// What a line's elements are calculated from beside the factors.
uvec4 given_at(bool inside, uint row, uint column, uint at) {
#ifdef GELU_BACKWARD
    if (inside || (row < push.m && column + WIDE <= push.n)) {
        return pre_uvec4[at / 8];
    }
#endif
    return uvec4(0);
}

// Writes the sums over a subgroup's rows of the columns that its invocations have each some rows of.
void store_sums(uint row, uint column, Eight total) {
#ifdef GELU_BACKWARD
    for (uint apart = WIDES; apart < gl_SubgroupSize; apart *= 2) {
        total.low += subgroupShuffleXor(total.low, apart);
        total.high += subgroupShuffleXor(total.high, apart);
    }
    if (gl_SubgroupInvocationID < WIDES && row < push.m && column < push.n) {
        uint at = row / (SIDE * ROW_MATRICES) * push.n + column;
        sums_vec4[at / 4] = total.low;
        sums_vec4[at / 4 + 1] = total.high;
    }
#endif
}

#define LINE(i, k) \
    if (k < ROUNDS) { \
        uint r = c_row + i * SIDE + k * (SIDE / ROUNDS); \
        store_line(inside, c_from + k * (SIDE / ROUNDS) * STAGED_PITCH, r, c_column, \
            c_start + r * push.ldc + c_column, c_bias, c_given[i * MOST_ROUNDS + k], c_total); \
    }

#define GIVEN(i, k) \
    if (UNROLLED && i < ROW_MATRICES && k < ROUNDS) { \
        uint r = c_row + i * SIDE + k * (SIDE / ROUNDS); \
        c_given[i * MOST_ROUNDS + k] = given_at(inside, r, c_column, c_start + r * push.ldc + c_column); \
    }

// Writes matrix (i, j) of the sums, and the one beside it if two are staged at a time.
#define SUM_AT(i, j) sum[((i) * COLUMN_MATRICES + (j)) % (ROW_MATRICES * COLUMN_MATRICES)]
#define STORE(i, j) \
    if (i < ROW_MATRICES) { \
        stage(SUM_AT(i, j * STAGED_ACROSS), 0); \
        if (STAGED_ACROSS == 2) { \
            stage(SUM_AT(i, j * STAGED_ACROSS + 1), 1); \
        } \
        exchange(); \
        if (UNROLLED) { \
            LINE(i, 0) \
            LINE(i, 1) \
            LINE(i, 2) \
            LINE(i, 3) \
        } else { \
            for (uint l = c_line; l < SIDE; l += gl_SubgroupSize / WIDES) { \
                uint r = c_row + i * SIDE + l - c_line; \
                uint at = c_start + r * push.ldc + c_column; \
                store_line(inside, c_from + (l - c_line) * STAGED_PITCH, r, c_column, at, c_bias, \
                    given_at(inside, r, c_column, at), c_total); \
            } \
        } \
        exchange(); \
    }

// The same of all rows of these columns, of which each invocation has the same eight or four all the time.
#define STORE_COLUMNS(j) \
    if (j * STAGED_ACROSS < COLUMN_MATRICES) { \
        uint c_line = gl_SubgroupInvocationID / WIDES; \
        uint c_row = corner.y + row + c_line; \
        uint c_wide = gl_SubgroupInvocationID % WIDES; \
        uint c_column = corner.x + column + j * STAGED_COLUMNS + c_wide * WIDE; \
        uint c_from = (gl_SubgroupID * SIDE + c_line) * STAGED_PITCH + c_wide * (WIDE / 4); \
        Eight c_bias = eight_of_bias(inside, c_column); \
        Eight c_total = Eight(vec4(0.0), vec4(0.0)); \
        uvec4 c_given[4 * MOST_ROUNDS]; \
        GIVEN(0, 0) GIVEN(0, 1) GIVEN(0, 2) GIVEN(0, 3) \
        GIVEN(1, 0) GIVEN(1, 1) GIVEN(1, 2) GIVEN(1, 3) \
        GIVEN(2, 0) GIVEN(2, 1) GIVEN(2, 2) GIVEN(2, 3) \
        GIVEN(3, 0) GIVEN(3, 1) GIVEN(3, 2) GIVEN(3, 3) \
        STORE(0, j) \
        STORE(1, j) \
        STORE(2, j) \
        STORE(3, j) \
        store_sums(corner.y + row, c_column, c_total); \
    }
