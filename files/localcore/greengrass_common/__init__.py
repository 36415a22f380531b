"""What a Greengrass V1 core puts beside a function: its environment and the parts of an ARN, written anew."""
