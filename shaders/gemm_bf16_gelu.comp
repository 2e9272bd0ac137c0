#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_bfloat16 : require
#pragma hlx fast
// C = A * B + bias and gelu(C), as gemm_bf16.

#define GELU
#include "gemm_bf16.glsl"
#include "gemm_matrix.glsl"
