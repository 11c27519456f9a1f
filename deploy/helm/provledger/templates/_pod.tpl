{{/* The pod of a service; (dict "root" $ "name" "keys"). */}}

{{/* How one service is asked for its health: gRPC with a client certificate, which a kubelet has not. */}}
{{- define "provledger.probe" -}}
{{- if eq .name "gateway" -}}
httpGet: {path: /readyz, port: service, scheme: HTTPS}
{{- else if eq .name "notary" -}}
httpGet: {path: /healthz, port: service, scheme: HTTPS}
{{- else -}}
exec:
  command: [python, -m, provledger.rpc.healthcheck, {{ .name }}]
{{- end -}}
{{- end -}}

{{- define "provledger.pod" -}}
{{- $root := .root -}}
{{- $name := .name -}}
{{- $values := index $root.Values $name -}}
{{- $grpc := has $name (list "keys" "witness" "ledger" "anchor") -}}
{{- $signs := has $name (list "witness" "anchor") -}}
{{- $data := or (has $name (list "anchor" "notary")) (and (eq $name "gateway") (eq $values.tilesFrom "volume")) -}}
{{- $file := "" -}}
{{- if and (eq $name "anchor") $values.policy }}{{ $file = "policy" }}{{ end -}}
{{- if eq $name "notary" }}{{ $file = "logs" }}{{ end -}}
metadata:
  labels:
    {{- include "provledger.labels" . | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- if $file }}
    checksum/files: {{ index $values $file | sha256sum }}
    {{- end }}
    kubectl.kubernetes.io/default-container: {{ $name }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "provledger.serviceAccount" . }}
  # No service calls the Kubernetes API. Cloud identities bring a volume of their own.
  automountServiceAccountToken: false
  # A Service called provledger-keys would otherwise set PROVLEDGER_KEYS_PORT, a setting of ours.
  enableServiceLinks: false
  securityContext:
    {{- toYaml $root.Values.podSecurityContext | nindent 4 }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  # 5 s until no new connections come, the drain, and what is flushed and closed after it. A setting
  # may have a fraction, and may be given as text.
  terminationGracePeriodSeconds: {{ add 20 (dig "grace_s" 10 $values.settings | float64 | ceil | int) (dig "drain_delay_s" 5 $values.settings | float64 | ceil | int) }}
  containers:
    - name: {{ $name }}
      image: {{ include "provledger.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [python, -m, {{ $name }}_svc]
      env:
        {{- include "provledger.env" . | nindent 8 }}
      ports:
        - name: service
          containerPort: {{ $values.port }}
          protocol: TCP
      securityContext:
        {{- toYaml $root.Values.securityContext | nindent 8 }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      # A start may wait for the first keys, which somebody has to make, for migrations, or for sinks
      # after a restore: up to a day, since killed it would begin anew, later each time.
      startupProbe:
        {{- include "provledger.probe" . | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 6
        failureThreshold: 17280
      readinessProbe:
        {{- include "provledger.probe" . | nindent 8 }}
        periodSeconds: 10
        timeoutSeconds: 6
        failureThreshold: 2
      # Whether the process still listens. That it cannot sign is no reason to restart it.
      livenessProbe:
        tcpSocket: {port: service}
        periodSeconds: 20
        timeoutSeconds: 5
        failureThreshold: 3
      {{- if $grpc }}
      lifecycle:
        preStop:
          exec:
            command: [sleep, "5"]
      {{- end }}
      volumeMounts:
        - {name: run, mountPath: /run/provledger}
        - {name: tmp, mountPath: /tmp}
        - {name: tls, mountPath: /etc/provledger/tls, readOnly: true}
        {{- if eq $name "gateway" }}
        - {name: rpc-tls, mountPath: /etc/provledger/rpc-tls, readOnly: true}
        {{- end }}
        {{- if and $signs $root.Values.keyFiles.secret }}
        - {name: keys, mountPath: /etc/provledger/keys, readOnly: true}
        {{- end }}
        {{- if $data }}
        - {name: data, mountPath: /var/lib/provledger, readOnly: {{ eq $name "gateway" }}}
        {{- end }}
        {{- if $file }}
        - {name: files, mountPath: /etc/provledger/files, readOnly: true}
        {{- end }}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - {name: run, emptyDir: {sizeLimit: 256Mi}}
    - {name: tmp, emptyDir: {sizeLimit: 256Mi}}
    - name: tls
      secret: {secretName: {{ $values.tls.secret }}, defaultMode: 0440}
    {{- if eq $name "gateway" }}
    - name: rpc-tls
      secret: {secretName: {{ $values.tls.rpcSecret }}, defaultMode: 0440}
    {{- end }}
    {{- if and $signs $root.Values.keyFiles.secret }}
    - name: keys
      secret: {secretName: {{ $root.Values.keyFiles.secret }}, defaultMode: 0440}
    {{- end }}
    {{- if $data }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ include "provledger.claim" . }}
        {{- if eq $name "gateway" }}
        readOnly: true
        {{- end }}
    {{- end }}
    {{- if $file }}
    - name: files
      configMap: {name: {{ include "provledger.name" . }}}
    {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $values.affinity }}
  affinity:
    {{- toYaml $values.affinity | nindent 4 }}
  {{- else if and (eq $name "gateway") $data (not (has "ReadWriteMany" $root.Values.anchor.persistence.accessModes)) }}
  affinity:
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "provledger.selector" (dict "root" $root "name" "anchor") | nindent 14 }}
  {{- else if gt (int $values.replicas) 1 }}
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "provledger.selector" . | nindent 16 }}
  {{- end }}
  {{- with $values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
{{- end -}}

{{/* The claim that a service's data is on; the gateway reads the anchor's. */}}
{{- define "provledger.claim" -}}
{{- $owner := ternary "anchor" .name (eq .name "gateway") -}}
{{- $values := index .root.Values $owner -}}
{{ $values.persistence.existingClaim | default (include "provledger.name" (dict "root" .root "name" $owner)) }}
{{- end -}}
