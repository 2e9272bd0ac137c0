#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// The residual stream after a branch, and LayerNorm of it, whose output is kept in 16 bits.
#define ADD
#include "layernorm_narrow.glsl"
