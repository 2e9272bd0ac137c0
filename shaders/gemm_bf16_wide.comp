#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_bfloat16 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int32 : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_NV_cooperative_matrix2 : require
#extension GL_EXT_control_flow_attributes : require
#pragma use_vulkan_memory_model
#pragma hlx fast
// The matrix product of packed 16-bit factors on NVIDIA's matrix units: C = A * B + bias. All invocations of a
// workgroup share one matrix, the tile; the driver moves A's and B's shares through shared memory.

#include "exact.glsl"

layout(std430, set = 0, binding = 0) readonly buffer A { bfloat16_t a[]; };  // [m, k], or [k, m] if TRANS_A
layout(std430, set = 0, binding = 1) readonly buffer B { bfloat16_t b[]; };  // [k, n], or [n, k] if TRANS_B
layout(std430, set = 0, binding = 2) writeonly buffer C { float c[]; };      // [m, n]
layout(std430, set = 0, binding = 3) readonly buffer Bias { float bias[]; }; // [n]

#define BIAS(column) 0.0
#include "gemm_free.glsl"

layout(constant_id = 9) const uint STEP = 64; // terms of a share
layout(local_size_x = 256) in;

#define LEFT coopmat<bfloat16_t, gl_ScopeWorkgroup, TILE_ROWS, STEP, gl_MatrixUseA>
#define RIGHT coopmat<bfloat16_t, gl_ScopeWorkgroup, STEP, TILE_COLUMNS, gl_MatrixUseB>
#define SUM coopmat<float, gl_ScopeWorkgroup, TILE_ROWS, TILE_COLUMNS, gl_MatrixUseAccumulator>
#define CLAMPED tensorLayoutNV<2, gl_CooperativeMatrixClampModeConstantNV>

// Rows of operands start at multiples of eight elements (WIDE): the driver then moves 16 bytes at a time.
uint aligned(uint stride) {
    return stride & ~7u;
}

float with_bias(const in uint32_t row, const in uint32_t column, const in float x, const in uint32_t corner) {
    return corner + column < push.n ? x + bias[corner + column] : x;
}

// Adds the products of a share of terms at a time. `left_rows` and `right_rows` are the stored operands.
#define ADD_TERMS(left_rows, right_rows, a_start, b_start)                                                   \
    [[dont_unroll]] for (uint term = first; term < end; term += STEP) {                                      \
        LEFT left;                                                                                           \
        RIGHT right;                                                                                         \
        if (TRANS_A != 0) {                                                                                  \
            coopMatLoadTensorNV(left, a, a_start,                                                       \
                                sliceTensorLayoutNV(left_rows, term, STEP, corner.y, TILE_ROWS), swapped);   \
        } else {                                                                                             \
            coopMatLoadTensorNV(left, a, a_start,                                                       \
                                sliceTensorLayoutNV(left_rows, corner.y, TILE_ROWS, term, STEP));            \
        }                                                                                                    \
        if (TRANS_B != 0) {                                                                                  \
            coopMatLoadTensorNV(right, b, b_start,                                                      \
                                sliceTensorLayoutNV(right_rows, corner.x, TILE_COLUMNS, term, STEP), swapped); \
        } else {                                                                                             \
            coopMatLoadTensorNV(right, b, b_start,                                                      \
                                sliceTensorLayoutNV(right_rows, term, STEP, corner.x, TILE_COLUMNS));        \
        }                                                                                                    \
        sum = coopMatMulAdd(left, right, sum);                                                               \
    }

void main() {
    uvec2 corner = tile_corner();
    uint a_start = batch_start(push.a_first, push.a_outer, push.a_inner);
    uint b_start = batch_start(push.b_first, push.b_outer, push.b_inner);
    uint c_start = batch_start(push.c_first, push.c_outer, push.c_inner);
    uint end = end_of_terms(corner.y + TILE_ROWS);
    // So that it is plain that shares begin at multiples of their length.
    uint first = first_term(corner.y) / STEP * STEP;
    tensorViewNV<2, false, 1, 0> swapped = createTensorViewNV(2, false, 1, 0);
    // The terms end where the block does, not where the operand does.
    uvec2 left_size = TRANS_A != 0 ? uvec2(end, push.m) : uvec2(push.m, end);
    uvec2 right_size = TRANS_B != 0 ? uvec2(push.n, end) : uvec2(end, push.n);

    SUM sum = SUM(0.0);
    if (WHOLE != 0) {
        tensorLayoutNV<2> left_rows = createTensorLayoutNV(2);
        tensorLayoutNV<2> right_rows = createTensorLayoutNV(2);
        left_rows = setTensorLayoutDimensionNV(left_rows, left_size.x, left_size.y);
        left_rows = setTensorLayoutStrideNV(left_rows, aligned(push.lda), 1);
        right_rows = setTensorLayoutDimensionNV(right_rows, right_size.x, right_size.y);
        right_rows = setTensorLayoutStrideNV(right_rows, aligned(push.ldb), 1);
        ADD_TERMS(left_rows, right_rows, aligned(a_start), aligned(b_start))
    } else {
        CLAMPED left_rows = createTensorLayoutNV(2, gl_CooperativeMatrixClampModeConstantNV);
        CLAMPED right_rows = createTensorLayoutNV(2, gl_CooperativeMatrixClampModeConstantNV);
        left_rows = setTensorLayoutDimensionNV(left_rows, left_size.x, left_size.y);
        left_rows = setTensorLayoutStrideNV(left_rows, push.lda, 1);
        right_rows = setTensorLayoutDimensionNV(right_rows, right_size.x, right_size.y);
        right_rows = setTensorLayoutStrideNV(right_rows, push.ldb, 1);
        ADD_TERMS(left_rows, right_rows, a_start, b_start)
    }
    if (push.use_bias != 0) {
        coopMatPerElementNV(sum, sum, with_bias, corner.x);
    }
    if (WHOLE != 0) {
        tensorLayoutNV<2> result = createTensorLayoutNV(2);
        result = setTensorLayoutDimensionNV(result, push.m, push.n);
        result = setTensorLayoutStrideNV(result, push.ldc & ~3u, 1);
        coopMatStoreTensorNV(sum, c, c_start & ~3u,
                             sliceTensorLayoutNV(result, corner.y, TILE_ROWS, corner.x, TILE_COLUMNS));
        return;
    }
    CLAMPED result = createTensorLayoutNV(2, gl_CooperativeMatrixClampModeConstantNV);
    result = setTensorLayoutDimensionNV(result, push.m, push.n);
    result = setTensorLayoutStrideNV(result, push.ldc, 1);
    coopMatStoreTensorNV(sum, c, c_start,
                         sliceTensorLayoutNV(result, corner.y, TILE_ROWS, corner.x, TILE_COLUMNS));
}
