//! The kernels as Rust sees them: what build.rs generated from `shaders/*.comp`, and the types it is made of.
//!
//! There is one module a kernel, named like its shader file, with `Push`, `Specialization`, `Bindings`,
//! `Args` and `dispatch`. To change any of them, change the GLSL.

use crate::precision::Precision;
use crate::recording::Access;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// One hash over the name and SPIR-V of every kernel that a precision may use: equal in two programs whose
/// kernels give equal bits. What is exact uses no kernel outside the contract.
pub fn kernels_hash(precision: Precision) -> String {
    let mut hasher = blake3::Hasher::new();
    for kernel in Kernel::ALL.iter().filter(|kernel| kernel.exact() || precision != Precision::Exact) {
        hasher.update(kernel.name().as_bytes());
        hasher.update(bytemuck::cast_slice(kernel.spirv()));
    }
    hasher.finalize().to_hex().to_string()
}

/// What reflection read off a kernel's SPIR-V.
struct Description {
    name: &'static str,
    spirv: &'static [u32],
    bindings: &'static [Binding],
    push_members: &'static [Member],
    addresses: &'static [Address],
    specialization: &'static [SpecConstant],
    local_size: [u32; 3],
    exact: bool,
    hash: &'static str,
}

/// A storage buffer that a kernel binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// As in the GLSL, without a trailing underscore.
    pub name: &'static str,
    /// What the kernel does with it.
    pub access: Access,
    /// What its words are.
    pub element: Element,
}

/// What a 32-bit word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// A 32-bit float.
    F32,
    /// A 32-bit unsigned integer.
    U32,
}

/// A push constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// As in the GLSL.
    pub name: &'static str,
    /// In bytes.
    pub offset: u32,
    /// What its word is.
    pub element: Element,
}

/// A push constant that the executor fills in, 8 bytes: the device address of what is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The binding's number.
    pub binding: usize,
    /// In bytes; after all other push constants.
    pub offset: u32,
}

/// A specialization constant, always a uint; GLSL's booleans are 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecConstant {
    /// As in the GLSL, in lower case.
    pub name: &'static str,
    /// Its `constant_id`.
    pub id: u32,
    /// What the shader says, as 32 bits.
    pub default: u32,
}

impl Kernel {
    /// The shader file's name without `.comp`.
    pub fn name(self) -> &'static str {
        self.description().name
    }

    /// The kernel of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Kernel> {
        Kernel::ALL.iter().copied().find(|kernel| kernel.name() == name)
    }

    /// The SPIR-V, as a Vulkan device takes it.
    pub fn spirv(self) -> &'static [u32] {
        self.description().spirv
    }

    /// Ascending by binding number, without gaps from 0.
    pub fn bindings(self) -> &'static [Binding] {
        self.description().bindings
    }

    /// The size in bytes of the push constants that a dispatch gives; 0 if there are none.
    pub fn push_bytes(self) -> usize {
        self.push_members().last().map_or(0, |member| member.offset as usize + 4)
    }

    /// The same with the addresses that the executor fills in.
    pub fn all_push_bytes(self) -> usize {
        self.addresses().last().map_or(self.push_bytes(), |address| address.offset as usize + 8)
    }

    /// The bindings whose addresses the kernel is told, ascending by offset.
    pub fn addresses(self) -> &'static [Address] {
        self.description().addresses
    }

    /// Ascending by offset.
    pub fn push_members(self) -> &'static [Member] {
        self.description().push_members
    }

    /// Ascending by constant id.
    pub fn specialization(self) -> &'static [SpecConstant] {
        self.description().specialization
    }

    /// Invocations a workgroup in x, y and z, with every specialization constant at its default.
    pub fn local_size(self) -> [u32; 3] {
        self.description().local_size
    }

    /// True if the kernel is under the exact contract: it gives the same bits on every device.
    pub fn exact(self) -> bool {
        self.description().exact
    }

    /// Hexadecimal FNV-1a (64 bits) of the SPIR-V's bytes: changes when the kernel does.
    pub fn hash(self) -> &'static str {
        self.description().hash
    }
}
