// The exact arithmetic: elementary functions from + - *, comparisons and bit operations, the same bits on
// every device. Twin of src/exact/math.rs, operation for operation; the comments there say why each is as
// it is, for what inputs, and how accurate. Names that GLSL has taken end in _exact.

const uint SIGN_BIT = 0x80000000u;
const uint MANTISSA_BITS = 0x007fffffu;
const uint ONE_BITS = 0x3f800000u;

const float INFINITY = uintBitsToFloat(0x7f800000u);
const float SNAP_BELOW = uintBitsToFloat(0x26800000u);         // 2^-50
const float SNAP_MOMENT_BELOW = uintBitsToFloat(0x0d800000u);  // 2^-100

float snap(float x) {
    return abs(x) < SNAP_BELOW ? 0.0 : x;
}

float snap_moment(float x) {
    return abs(x) < SNAP_MOMENT_BELOW ? 0.0 : x;
}

bool is_finite(float x) {
    return (floatBitsToUint(x) & 0x7f800000u) != 0x7f800000u;
}

float limit(float x, float bound) {
    x = x > bound ? bound : x;
    return x < -bound ? -bound : x;
}

const uint RECIP_SEED = 0x7ef25000u;

float recip(float x) {
    float y = uintBitsToFloat(RECIP_SEED - floatBitsToUint(x));
    y = y * (2.0 - x * y);
    y = y * (2.0 - x * y);
    return y + y * (1.0 - x * y);
}

const uint RSQRT_SEED = 0x5f375a86u;

float rsqrt_rough(float x) {
    float x_half = 0.5 * x;
    float y = uintBitsToFloat(RSQRT_SEED - (floatBitsToUint(x) >> 1));
    y = y * (1.5 - x_half * y * y);
    return y * (1.5 - x_half * y * y);
}

float rsqrt(float x) {
    float y = rsqrt_rough(x);
    float residual = 1.0 - x * y * y;
    return y + y * (0.5 * residual);
}

float sqrt_exact(float x) {
    float y = rsqrt_rough(x);
    float s = x * y;
    return s + (x - s * s) * (0.5 * y);
}

const float ROUND = uintBitsToFloat(0x4b400000u);  // 1.5 * 2^23
const uint ROUND_BITS = 0x4b400000u;

const float LOG2_E = uintBitsToFloat(0x3fb8aa3bu);
const float LN2_HIGH = uintBitsToFloat(0x3f317200u);
const float LN2_LOW = uintBitsToFloat(0x35bfbe8eu);

const float EXP_0 = uintBitsToFloat(0x3efffffeu);
const float EXP_1 = uintBitsToFloat(0x3e2aaa49u);
const float EXP_2 = uintBitsToFloat(0x3d2aac79u);
const float EXP_3 = uintBitsToFloat(0x3c091ceeu);
const float EXP_4 = uintBitsToFloat(0x3ab5122cu);

const float EXP_LOWEST = uintBitsToFloat(0xc2ae0000u);   // -87
const float EXP_HIGHEST = uintBitsToFloat(0x42b00000u);  // 88

float exp_limited(float x) {
    x = snap(x);
    float shifted = x * LOG2_E + ROUND;
    float n = shifted - ROUND;
    float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    float q = (((EXP_4 * r + EXP_3) * r + EXP_2) * r + EXP_1) * r + EXP_0;
    float e_r = 1.0 + (r + r * (r * q));
    float two_n = uintBitsToFloat((floatBitsToUint(shifted) << 23) + ONE_BITS);
    return e_r * two_n;
}

float exp_exact(float x) {
    float limited = x < EXP_LOWEST ? EXP_LOWEST : x;
    limited = limited > EXP_HIGHEST ? EXP_HIGHEST : limited;
    float y = exp_limited(limited);
    y = x < EXP_LOWEST ? 0.0 : y;
    return x > EXP_HIGHEST ? INFINITY : y;
}

const uint SQRT_HALF_BITS = 0x3f3504f3u;

const float LOG_0 = uintBitsToFloat(0x3eaaaaaau);
const float LOG_1 = uintBitsToFloat(0xbe800113u);
const float LOG_2 = uintBitsToFloat(0x3e4cd005u);
const float LOG_3 = uintBitsToFloat(0xbe2a3925u);
const float LOG_4 = uintBitsToFloat(0x3e116d05u);
const float LOG_5 = uintBitsToFloat(0xbe06c282u);
const float LOG_6 = uintBitsToFloat(0x3e02ade3u);
const float LOG_7 = uintBitsToFloat(0xbd9c5bc7u);

float log_exact(float x) {
    uint above = floatBitsToUint(x) - SQRT_HALF_BITS;
    float f = uintBitsToFloat((above & MANTISSA_BITS) + SQRT_HALF_BITS) - 1.0;
    float n = uintBitsToFloat(ROUND_BITS + uint(int(above) >> 23)) - ROUND;
    float p = ((LOG_7 * f + LOG_6) * f + LOG_5) * f + LOG_4;
    p = (((p * f + LOG_3) * f + LOG_2) * f + LOG_1) * f + LOG_0;
    float z = f * f;
    float y = f + ((f * z * p + n * LN2_LOW) - 0.5 * z);
    y = y + n * LN2_HIGH;
    return x < INFINITY ? y : x;
}

const float LOGISTIC_LIMIT = uintBitsToFloat(0x42200000u);  // 40

float sigmoid(float x) {
    return recip(1.0 + exp_limited(-limit(x, LOGISTIC_LIMIT)));
}

const float GELU_1 = uintBitsToFloat(0x3fcc422au);
const float GELU_3 = uintBitsToFloat(0x3d922279u);
const float GELU_3_TIMES_3 = uintBitsToFloat(0x3e5b33b6u);
const float GELU_LIMIT = uintBitsToFloat(0x41000000u);  // 8

float gelu(float x) {
    float a = limit(x, GELU_LIMIT);
    float t = a * (GELU_1 + GELU_3 * (a * a));
    float e = exp_limited(-limit(t, LOGISTIC_LIMIT));
    float y = x * recip(1.0 + e);
    return t < -LOGISTIC_LIMIT ? 0.0 : y;
}

float gelu_grad(float x) {
    float a = limit(x, GELU_LIMIT);
    float z = a * a;
    float t = a * (GELU_1 + GELU_3 * z);
    float dt = GELU_1 + GELU_3_TIMES_3 * z;
    float e = exp_limited(-limit(t, LOGISTIC_LIMIT));
    float s = recip(1.0 + e);
    float y = s * (1.0 + (a * dt) * (e * s));
    return t < -LOGISTIC_LIMIT ? 0.0 : y;
}

const float TANH_0 = uintBitsToFloat(0xbeaaaa99u);
const float TANH_1 = uintBitsToFloat(0x3e088393u);
const float TANH_2 = uintBitsToFloat(0xbd5c1e2cu);
const float TANH_3 = uintBitsToFloat(0x3ca9134au);
const float TANH_4 = uintBitsToFloat(0xbbbaf0d7u);

const float TANH_NEAR = uintBitsToFloat(0x3f200000u);   // 0.625
const float TANH_LIMIT = uintBitsToFloat(0x41a00000u);  // 20

float tanh_exact(float x) {
    float a = abs(limit(x, TANH_LIMIT));
    float z = snap(a * a);
    float p = (((TANH_4 * z + TANH_3) * z + TANH_2) * z + TANH_1) * z + TANH_0;
    float near = a + a * (z * p);
    float far = 1.0 - 2.0 * recip(1.0 + exp_limited(2.0 * a));
    float y = a < TANH_NEAR ? near : far;
    return uintBitsToFloat(floatBitsToUint(y) | (floatBitsToUint(x) & SIGN_BIT));
}
