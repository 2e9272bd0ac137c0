#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_bfloat16 : require
#pragma hlx fast
// C = (A * B) gelu'(pre), the sums of its columns, and gelu(pre), as gemm_bf16.

#define GELU_BACKWARD
#include "gemm_bf16.glsl"
#include "gemm_matrix.glsl"
