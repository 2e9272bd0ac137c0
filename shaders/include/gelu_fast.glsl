// The tanh form of GELU (Hendrycks & Gimpel 2016) by the device's own exp2: x * sigmoid(2 u) with
// u = sqrt(2/pi) * (x + 0.044715 x^3), since (1 + tanh u) / 2 = sigmoid(2 u).

const float TWO_SQRT_2_OVER_PI = 1.5957691216057308;
const float CUBE = 0.044715;

vec4 sigmoid_of_gelu(vec4 x) {
    // Past 2^-127 nothing is left of an f32: no infinity must meet a zero.
    vec4 minus_2_u = x * (-LOG2_E * TWO_SQRT_2_OVER_PI + -LOG2_E * TWO_SQRT_2_OVER_PI * CUBE * (x * x));
    return 1.0 / (1.0 + exp2(min(minus_2_u, 115.0)));
}

// From x and its sigmoid.
vec4 gelu_grad_of(vec4 x, vec4 s) {
    vec4 d_2_u = TWO_SQRT_2_OVER_PI + 3.0 * TWO_SQRT_2_OVER_PI * CUBE * (x * x);
    return s + x * d_2_u * (s - s * s);
}
