"""Built folders made ready for a device without Python: library, TVM's runtime, headers, a C++ example, a README."""
