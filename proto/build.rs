//! Makes the gRPC stubs of `mesh/v1` from their `.proto` files, without protoc.

use std::error::Error;

const FILES: [&str; 4] = [
    "mesh/v1/resource.proto",
    "mesh/v1/identity.proto",
    "mesh/v1/control.proto",
    "mesh/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=mesh");
    #[cfg(feature = "grpc")]
    stubs()?;
    #[cfg(not(feature = "grpc"))]
    let _ = FILES;
    Ok(())
}

#[cfg(feature = "grpc")]
fn stubs() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        .bytes(".weft.mesh.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
