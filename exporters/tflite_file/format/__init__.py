"""The TFLite flatbuffer: graph, schema, versions, reading and writing."""
