// The body of the products on matrix units: a workgroup computes a tile of C, with A's and B's share of a few
// terms in shared memory, rounded to 16 bits on the way there, the next share on its way in registers, and the
// sums of each subgroup in small matrices.
//
// The including shader names the factors' type, FACTOR, and rounds two floats into a word: rounded(vec2).

#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#pragma use_vulkan_memory_model

#include "exact.glsl"

layout(std430, set = 0, binding = 0) readonly buffer A { float a[]; };       // [m, k], or [k, m] if TRANS_A
layout(std430, set = 0, binding = 1) readonly buffer B { float b[]; };       // [k, n], or [n, k] if TRANS_B
layout(std430, set = 0, binding = 2) writeonly buffer C { float c[]; };      // [m, n]
layout(std430, set = 0, binding = 3) readonly buffer Bias { float bias[]; }; // [n]
layout(std430, set = 0, binding = 0) readonly buffer AQuads { vec4 a_vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer BQuads { vec4 b_vec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer CQuads { vec4 c_vec4[]; };
// The same as pairs of 16-bit floats, if they are PACKED: four pairs, and one.
layout(std430, set = 0, binding = 0) readonly buffer AOcts { uvec4 a_uvec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer BOcts { uvec4 b_uvec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer COcts { uvec4 c_uvec4[]; };
layout(std430, set = 0, binding = 0) readonly buffer APairs { uint a_uint[]; };
layout(std430, set = 0, binding = 1) readonly buffer BPairs { uint b_uint[]; };
layout(std430, set = 0, binding = 2) writeonly buffer CPairs { uint c_uint[]; };

#define BIAS(column) (push.use_bias != 0 ? bias[column] : 0.0)
#define SCALED_FACTORS
#include "gemm_free.glsl"

layout(constant_id = 9) const uint ROW_MATRICES = 4; // matrices down and across that a subgroup sums
layout(constant_id = 10) const uint COLUMN_MATRICES = 4;
layout(constant_id = 11) const uint STEP = 32;  // terms of a share, a multiple of SIDE
layout(constant_id = 12) const uint SHARES = 2; // shares in shared memory: 1 or 2
layout(constant_id = 13) const uint A_PACKED = 0;
layout(constant_id = 14) const uint B_PACKED = 0;
layout(constant_id = 15) const uint SCALED = 0; // the scales are not all one
layout(constant_id = 16) const uint SIDE = 16; // rows, columns and terms of the matrices, 8 or 16
layout(constant_id = 17) const uint INVOCATIONS = 128;
layout(local_size_x_id = 18) in; // the same; at least as many subgroups as SUBGROUPS
layout(constant_id = 19) const uint C_PACKED = 0;
layout(constant_id = 20) const uint AHEAD = 1;  // shares on their way in registers: 1 or 2
layout(constant_id = 21) const uint STAGED = 0; // C goes through shared memory even where no edge cuts it off
layout(constant_id = 22) const uint SPARE = 1;  // there may be more subgroups than SUBGROUPS
layout(constant_id = 23) const uint LAST_APART = 1; // the last share is multiplied after the loop

const uint SUBGROUPS_ACROSS = TILE_COLUMNS / (SIDE * COLUMN_MATRICES);
const uint SUBGROUPS = TILE_ROWS / (SIDE * ROW_MATRICES) * SUBGROUPS_ACROSS;

#include "gemm_matrix_fetch.glsl"
#include "gemm_matrix_store.glsl"

// What follows is unrolled by hand wherever an array of registers is indexed: drivers do not unroll all that they
// are asked to, and then such an array lies in memory.

// Adds the products of SIDE terms of a share to the sums.
#define MULTIPLY_PART(share, part) \
    if (part * SIDE < STEP) { \
        coopmat<FACTOR, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseA> left[ROW_MATRICES]; \
        [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) { \
            uint at = left_base + left_at(share, i * SIDE, part * SIDE); \
            coopMatLoad(left[i], tile, at, LEFT_PITCH, LEFT_LAYOUT); \
        } \
        [[unroll]] for (uint j = 0; j < COLUMN_MATRICES; ++j) { \
            coopmat<FACTOR, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseB> right; \
            uint at = right_base + right_at(share, j * SIDE, part * SIDE); \
            coopMatLoad(right, tile, at, RIGHT_PITCH, RIGHT_LAYOUT); \
            [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) { \
                sum[i * COLUMN_MATRICES + j] = coopMatMulAdd(left[i], right, sum[i * COLUMN_MATRICES + j]); \
            } \
        } \
    }

// Adds a share's products to the sums. Terms past the operands' ends are stored as zeros.
#define MULTIPLY(share) \
    if (SPARE == 0 || sums) { \
        MULTIPLY_PART(share, 0) \
        MULTIPLY_PART(share, 1) \
        MULTIPLY_PART(share, 2) \
        MULTIPLY_PART(share, 3) \
    }

// Share t + s of the terms, where there are two shares in memory or two on their way.
#define WORK_ON(s) \
    if (t + s < count) { \
        if (SHARES > 1 && t + s + 1 < count) { \
            store_share((s + 1) % AHEAD, (s + 1) % SHARES); \
        } \
        if (t + s + AHEAD + SHARES - 1 < count) { \
            fetch_share((s + SHARES - 1) % AHEAD); \
        } \
        MULTIPLY(s % SHARES) \
        barrier(); \
        if (SHARES == 1) { \
            if (t + s + 1 < count) { \
                store_share((s + 1) % AHEAD, 0); \
            } \
            barrier(); \
        } \
    }

// Writes matrix (i, j) of the sums, and the one beside it if two are staged at a time.
#define SUM_AT(i, j) sum[((i) * COLUMN_MATRICES + (j)) % (ROW_MATRICES * COLUMN_MATRICES)]
#define STORE(i, j) \
    if (i < ROW_MATRICES && j * STAGED_ACROSS < COLUMN_MATRICES) { \
        uint r = corner.y + row + i * SIDE; \
        uint col = corner.x + column + j * STAGED_ACROSS * SIDE; \
        if (STAGED == 0 && C_PACKED == 0 && inside) { \
            store_whole(SUM_AT(i, j * STAGED_ACROSS), c_start, r, col); \
            if (STAGED_ACROSS == 2) { \
                store_whole(SUM_AT(i, j * STAGED_ACROSS + 1), c_start, r, col + SIDE); \
            } \
        } else { \
            stage(SUM_AT(i, j * STAGED_ACROSS), 0); \
            if (STAGED_ACROSS == 2) { \
                stage(SUM_AT(i, j * STAGED_ACROSS + 1), 1); \
            } \
            subgroupBarrier(); \
            store_staged(inside, c_start, r, col); \
            subgroupBarrier(); \
        } \
    }

void main() {
    uvec2 corner = tile_corner();
    if (is_unwanted(corner.y + TILE_ROWS, corner.x)) {
        return;
    }
    bool sums = gl_SubgroupID < SUBGROUPS;
    uint row = gl_SubgroupID / SUBGROUPS_ACROSS * (SIDE * ROW_MATRICES);
    uint column = gl_SubgroupID % SUBGROUPS_ACROSS * (SIDE * COLUMN_MATRICES);

    SUM sum[ROW_MATRICES * COLUMN_MATRICES];
    [[unroll]] for (uint i = 0; i < ROW_MATRICES * COLUMN_MATRICES; ++i) {
        sum[i] = SUM(0.0);
    }
    uint left_base = left_at(0, row, 0);
    uint right_base = right_at(0, column, 0) - right_at(0, 0, 0);
    uint first = first_term(corner.y) / STEP * STEP;
    uint count = (end_of_terms(corner.y + TILE_ROWS) - first + STEP - 1) / STEP;
    begin_at(corner, first);
    fetch_share(0);
    store_share(0, 0);
    if (AHEAD + SHARES > 2 && 1 < count) {
        fetch_share(1 % AHEAD);
    }
    if (AHEAD + SHARES > 3 && 2 < count) {
        fetch_share(2 % AHEAD);
    }
    barrier();
    if (AHEAD == 1 && SHARES == 1 && LAST_APART == 0) {
        for (uint t = 0; t < count; ++t) {
            WORK_ON(0)
        }
    } else if (AHEAD == 1 && SHARES == 1) {
        // The last share apart, so that the loop has no branch.
        for (uint t = 1; t < count; ++t) {
            fetch_share(0);
            MULTIPLY(0)
            barrier();
            store_share(0, 0);
            barrier();
        }
        MULTIPLY(0)
        barrier();
    } else {
        for (uint t = 0; t < count; t += 2) {
            WORK_ON(0)
            WORK_ON(1)
        }
    }
    if (SPARE != 0 && !sums) {
        return;
    }
    uint c_start = batch_start(push.c_first, push.c_outer, push.c_inner);
    bool inside = WHOLE != 0
        || (WIDE_C != 0 && corner.y + TILE_ROWS <= push.m && corner.x + TILE_COLUMNS <= push.n);
    STORE(0, 0)
    STORE(0, 1)
    STORE(1, 0)
    STORE(1, 1)
    STORE(2, 0)
    STORE(2, 1)
    STORE(3, 0)
    STORE(3, 1)
}
