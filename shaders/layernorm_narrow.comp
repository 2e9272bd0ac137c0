#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// LayerNorm whose output is kept in 16 bits.
#include "layernorm_narrow.glsl"
