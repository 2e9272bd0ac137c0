// How the sums of a subgroup become elements of C: by way of shared memory, a row of two matrices at a time, so
// that an invocation writes eight or four elements side by side.
//
// What else is done to an element on its way, the including shader says:
//   GELU           C goes into GELU, whose result is written too; C itself only if AGAIN, else GELU's derivative
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
layout(std430, set = 0, binding = 4) readonly buffer Pre { uint pre[]; };     // [m, n / 2]: as GELU's C was left
layout(std430, set = 0, binding = 5) writeonly buffer Act { uint act[]; };    // [m, n / 2]
layout(std430, set = 0, binding = 6) writeonly buffer Sums { float sums[]; }; // [subgroups down, n]
layout(std430, set = 0, binding = 4) readonly buffer PreOcts { uvec4 pre_uvec4[]; };
layout(std430, set = 0, binding = 5) writeonly buffer ActOcts { uvec4 act_uvec4[]; };
layout(std430, set = 0, binding = 6) writeonly buffer SumQuads { vec4 sums_vec4[]; };
#endif
#if defined(GELU) || defined(GELU_BACKWARD)
layout(constant_id = 20) const uint AGAIN = 0;
#endif

const uint WIDE = C_PACKED != 0 ? 8 : 4; // elements that are written at once
const uint WIDES = STAGED_COLUMNS / WIDE; // of a staged row: no more than a subgroup has invocations

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
        // GELU is taken of what is kept of its argument.
        uvec4 halves = rounded(x.low, x.high, push.out_scale);
        Eight u = Eight(widened(halves.xy), widened(halves.zw));
        Eight s = Eight(sigmoid_of_gelu(u.low), sigmoid_of_gelu(u.high));
        if (AGAIN == 0) {
            halves = rounded(gelu_grad_of(u.low, s.low), gelu_grad_of(u.high, s.high), 1.0);
        }
        c_uvec4[at / 8] = halves;
        act_uvec4[at / 8] = rounded(u.low * s.low, u.high * s.high, 1.0);
    }
#elif defined(GELU_BACKWARD)
    if (whole) {
        Eight u = Eight(widened(given.xy), widened(given.zw));
        if (AGAIN == 0) {
            x = Eight(x.low * u.low, x.high * u.high);
        } else {
            Eight s = Eight(sigmoid_of_gelu(u.low), sigmoid_of_gelu(u.high));
            x = Eight(x.low * gelu_grad_of(u.low, s.low), x.high * gelu_grad_of(u.high, s.high));
            act_uvec4[at / 8] = rounded(u.low * s.low, u.high * s.high, 1.0);
        }
        c_uvec4[at / 8] = rounded(x.low, x.high, push.out_scale);
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
uvec4 given_at(bool inside, uint row, uint end, uint column, uint at) {
#ifdef GELU_BACKWARD
    if (row < end && (inside || column + WIDE <= push.n)) {
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

// Stages matrix (i, j) of the sums, and the one beside it if two are staged at a time, in the turn of c_part.
#define SUM_AT(i, j) sum[((i) * COLUMN_MATRICES + (j)) % (ROW_MATRICES * COLUMN_MATRICES)]
#define STAGE(i, j) \
    if (i < ROW_MATRICES && j * STAGED_ACROSS < COLUMN_MATRICES && c_part == j * ROW_MATRICES + i) { \
        stage(SUM_AT(i, j * STAGED_ACROSS), 0); \
        if (STAGED_ACROSS == 2) { \
            stage(SUM_AT(i, j * STAGED_ACROSS + 1), 1); \
        } \
    }

// Writes all sums, each invocation eight or four columns after the others, down their rows. The loops stay loops:
// what follows runs once a workgroup, so that most of its time would go into fetching a long code.
#define STORE_SUMS \
    [[dont_unroll]] for (uint j = 0; j < COLUMN_MATRICES / STAGED_ACROSS; ++j) { \
        uint c_line = gl_SubgroupInvocationID / WIDES; \
        uint c_row = corner.y + row + c_line; \
        uint c_wide = gl_SubgroupInvocationID % WIDES; \
        uint c_column = corner.x + column + j * STAGED_COLUMNS + c_wide * WIDE; \
        uint c_from = (gl_SubgroupID * SIDE + c_line) * STAGED_PITCH + c_wide * (WIDE / 4); \
        uint c_lines = min(gl_SubgroupSize / WIDES, SIDE); \
        uint c_end = min(corner.y + row + SIDE * ROW_MATRICES, push.m); \
        uint c_at = c_start + c_row * push.ldc + c_column; \
        Eight c_bias = eight_of_bias(inside, c_column); \
        Eight c_total = Eight(vec4(0.0), vec4(0.0)); \
        uvec4 c_given = given_at(inside, c_row, c_end, c_column, c_at); \
        uvec4 c_next = given_at(inside, c_row + c_lines, c_end, c_column, c_at + c_lines * push.ldc); \
        [[dont_unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) { \
            uint c_part = j * ROW_MATRICES + i; \
            STAGE(0, 0) STAGE(1, 0) STAGE(2, 0) STAGE(3, 0) \
            STAGE(0, 1) STAGE(1, 1) STAGE(2, 1) STAGE(3, 1) \
            exchange(); \
            [[dont_unroll]] for (uint line = 0; line < SIDE; line += c_lines) { \
                uvec4 c_here = c_given; \
                c_given = c_next; \
                c_next = \
                    given_at(inside, c_row + 2 * c_lines, c_end, c_column, c_at + 2 * c_lines * push.ldc); \
                if (c_line < c_lines) { \
                    uint from = c_from + line * STAGED_PITCH; \
                    store_line(inside, from, c_row, c_column, c_at, c_bias, c_here, c_total); \
                } \
                c_row += c_lines; \
                c_at += c_lines * push.ldc; \
            } \
            exchange(); \
        } \
        store_sums(corner.y + row, c_column, c_total); \
    }
