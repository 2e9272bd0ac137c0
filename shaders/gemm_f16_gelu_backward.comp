#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#pragma hlx fast
// C = (A * B) gelu'(pre), the sums of its columns, and gelu(pre), as gemm_f16.

#define GELU_BACKWARD
#include "gemm_f16.glsl"
#include "gemm_matrix.glsl"
